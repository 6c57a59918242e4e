"""`tritonsmith init`: what is there → a models.yaml that builds the same messages again, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.builder.foreign_repository import write_foreign_repository
from tests.builder.lint.fixtures import Tree
from tests.builder.lint.upstream import five_models
from tests.conftest import Run
from tests.onnx_models import add_model, affine, save, with_controls
from tritonsmith.builder.base.errors import TritonsmithError
from tritonsmith.builder.importing.files import imported_paths
from tritonsmith.builder.importing.imported import ImportedModel
from tritonsmith.builder.importing.live import imported_configs
from tritonsmith.builder.importing.spec_text import text_of_spec, without_refused
from tritonsmith.builder.lint.check import check
from tritonsmith.builder.spec.spec import load_spec


def spec_of(root: Path, *paths: Path) -> dict[str, Any]:
    """The imported spec as plain data, after it was found valid."""
    data: dict[str, Any] = yaml.safe_load(text_of_spec(imported_paths(paths, root).models))
    return data


def test_a_foreign_repository_is_checked_imported_changed_and_rebuilt(
    tmp_path: Path, tritonsmith: Run
) -> None:
    foreign = write_foreign_repository(tmp_path / "foreign")
    assert [f for f in check([foreign]) if f.severity == "error"] == []
    imported = tritonsmith("init", "foreign", "--format", "json")
    assert imported.returncode == 0, imported.stderr
    sources = {m["name"]: next(iter(m["source"])) for m in json.loads(imported.stdout)["models"]}
    assert sources == {
        "labelled": "onnx",
        "minimal": "onnx",
        "pipeline": "directory",
        "tenfold": "directory",
        "two": "directory",
    }
    assert "foreign/labelled/config.pbtxt:1: comment not carried over: # our detector" in imported.stderr
    assert "foreign/labelled/config.pbtxt:5" in imported.stderr
    spec = tmp_path / "models.yaml"
    text = spec.read_text()
    assert text.count("max_queue_delay_microseconds: 100}") == 1

    built = tritonsmith("build")
    assert built.returncode == 0, built.stderr
    same = tritonsmith("diff", "foreign", "model_repository", "--as-served", "--exit-code")
    assert same.returncode == 0, same.stdout
    assert (tmp_path / "model_repository/pipeline/1").is_dir()

    spec.write_text(text.replace("max_queue_delay_microseconds: 100}", "max_queue_delay_microseconds: 900}"))
    assert tritonsmith("build").returncode == 0
    changed = tritonsmith(
        "diff", "foreign", "model_repository", "--as-served", "--exit-code", "--format", "json"
    )
    assert changed.returncode == 4
    assert json.loads(changed.stdout)["models"] == [
        {
            "model": "labelled",
            "kind": "changed",
            "changes": [
                {
                    "what": "field",
                    "path": "dynamic_batching.max_queue_delay_microseconds",
                    "old": "100",
                    "new": "900",
                }
            ],
        }
    ]

    # A file that is new in a directory, an edited one and new labels are each a reason to build again.
    (foreign / "tenfold" / "1" / "table.txt").write_text("1")
    (foreign / "labelled" / "labels.txt").write_text("d\n")
    stale = json.loads(tritonsmith("plan", "--format", "json").stdout)["actions"]
    assert {(a["model"], a["action"], a["reason"]) for a in stale if a["reason"]} == {
        ("tenfold", "export", "source_changed"),
        ("tenfold", "render", "export_changed"),
        ("tenfold", "lay_out", "export_changed"),
        ("labelled", "lay_out", "source_changed"),
    }
    assert tritonsmith("build").returncode == 0
    assert (tmp_path / "model_repository/tenfold/1/table.txt").read_text() == "1"
    assert (tmp_path / "model_repository/labelled/labels.txt").read_text() == "d\n"


FIVE_MODELS = ("ensemble", "postprocessing", "preprocessing", "tensorrt_llm", "tensorrt_llm_bls")


def test_the_five_models_of_tensorrt_llm_are_imported_each_as_a_directory(tmp_path: Path) -> None:
    (root,) = Tree(five_models(decoupled_mode="True")).write(tmp_path)
    models = spec_of(tmp_path, root)["models"]
    assert {name: next(iter(model["source"])) for name, model in models.items()} == dict.fromkeys(
        FIVE_MODELS, "directory"
    )


@pytest.mark.nightly
def test_the_five_models_of_tensorrt_llm_are_taken_over_as_they_are(tmp_path: Path, tritonsmith: Run) -> None:
    Tree(five_models(decoupled_mode="True")).write(tmp_path)
    initialised = tritonsmith("init", "repository")
    assert initialised.returncode == 0, initialised.stderr
    built = tritonsmith("build")
    assert built.returncode == 0, built.stderr
    same = tritonsmith("diff", "repository", "model_repository", "--as-served", "--exit-code")
    assert same.returncode == 0, same.stdout
    assert check([tmp_path / "model_repository"]) == []


def test_onnx_files_are_named_by_their_files(tmp_path: Path) -> None:
    for name in ("a/net.onnx", "b/Net.onnx", "c/model.onnx", "d/1/model.onnx"):
        save(affine(("batch", 3)), tmp_path / name)
    found = imported_paths(
        [tmp_path / "a", *(tmp_path / n for n in ("b/Net.onnx", "c/model.onnx", "d/1/model.onnx"))], tmp_path
    )
    assert {m.name: m.source["onnx"] for m in found.models} == {
        "net": "a/net.onnx",
        "Net_2": "b/Net.onnx",
        "c": "c/model.onnx",
        "d": "d/1/model.onnx",
    }
    assert found.models[0].remarks == ("x FP32 [batch, 3] → y FP32 [batch, 3]",)
    assert "'Net_2'" in found.notes[0].message


def test_paths_lead_from_the_spec_to_the_files(tmp_path: Path) -> None:
    file = save(affine(("batch", 3)), tmp_path / "files" / "m.onnx")
    assert spec_of(tmp_path / "specs", file)["models"]["m"]["source"] == {"onnx": "../files/m.onnx"}


def test_what_one_onnx_file_cannot_say_is_taken_over_as_it_is(tmp_path: Path) -> None:
    tensors = [
        f'{kind} [ {{ name: "{name}" data_type: TYPE_FP32 dims: [ 1 ] }} ]'
        for kind, name in (("input", "x"), ("output", "y"))
    ]
    start = 'name: "START" control [ { kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1 ] } ]'
    controls = "\n".join(
        ["max_batch_size: 4", *tensors, f"sequence_batching {{ control_input [ {{ {start} }} ] }}"]
    )
    add_model(tmp_path / "r", "sequence", with_controls(), controls)
    add_model(
        tmp_path / "r",
        "other_name",
        affine(("batch", 3)),
        'default_model_filename: "net.onnx" backend: "onnxruntime"',
    )
    models = spec_of(tmp_path, tmp_path / "r")["models"]
    assert [next(iter(m["source"])) for m in models.values()] == ["directory", "directory"]


def test_what_all_models_share_stands_once(tmp_path: Path) -> None:
    for name, size in (("a", 4), ("b", 8)):
        config = f"max_batch_size: {size}\ninstance_group [ {{ kind: KIND_CPU count: 2 }} ]\ndynamic_batching {{ }}"
        add_model(tmp_path / "r", name, affine(("batch", 3)), config)
    spec = spec_of(tmp_path, tmp_path / "r")
    assert spec["defaults"] == {"instance_group": [{"count": 2, "kind": "KIND_CPU"}], "dynamic_batching": {}}
    assert [set(m) for m in spec["models"].values()] == [{"source", "max_batch_size"}] * 2


def test_long_values_go_on_lines_of_their_own(tmp_path: Path) -> None:
    fields = {
        "parameters": {f"key {n}": "x" * 30 for n in range(9)},
        "input": [{"name": "n" * 90, "dims": [1] * 9}],
    }
    text = text_of_spec([ImportedModel("ä: 1", {"directory": "d"}, fields, {}, ("a\nb",))])
    assert yaml.safe_load(text) == {"models": {"ä: 1": {"source": {"directory": "d"}, **fields}}}
    assert max(map(len, text.splitlines())) <= 110


BAD = [
    ("nothing there", "nowhere", 2, "no_such_path", "nowhere"),
    ("a link to nothing", "gone.onnx", 2, "no_such_path", "a link to 'there.onnx', which is not there"),
    ("not ONNX", "text.onnx", 2, "not_onnx", "text.onnx"),
    ("a repository without models", "empty", 2, "no_models", "model repositories"),
    ("a config that is none", "broken", 1, "config_syntax", "config.pbtxt:2"),
    ("a config alone", "loose/config.pbtxt", 2, "loose_config", "version directories"),
    ("a URL of another kind", "grpc://localhost:8001", 2, "bad_url", "http://"),
    ("a server that is not there", "http://127.0.0.1:9", 3, "server_unreachable", "127.0.0.1:9"),
]


@pytest.mark.parametrize(("path", "exit_code", "code", "word"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_bad_origins_are_one_clear_error(
    tmp_path: Path, path: str, exit_code: int, code: str, word: str
) -> None:
    from tritonsmith.perf.commands.init import init

    (tmp_path / "text.onnx").write_text("text")
    (tmp_path / "gone.onnx").symlink_to("there.onnx")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken" / "m" / "1").mkdir(parents=True)
    (tmp_path / "broken" / "m" / "config.pbtxt").write_text('name: "m"\nmax_batchsize: 1\n')
    (tmp_path / "loose").mkdir()
    (tmp_path / "loose" / "config.pbtxt").write_text('name: "m"')
    output = tmp_path / "models.yaml"
    with pytest.raises(TritonsmithError) as caught:
        init([path if "://" in path else str(tmp_path / path)], output)
    assert (caught.value.exit_code, caught.value.code) == (exit_code, code)
    assert word in str(caught.value)
    assert not output.exists()


def test_a_spec_is_not_overwritten_unasked(tmp_path: Path, tritonsmith: Run) -> None:
    save(affine(("batch", 3)), tmp_path / "m.onnx")
    (tmp_path / "models.yaml").write_text("mine")
    refused = tritonsmith("init", "m.onnx")
    assert refused.returncode == 2 and "--force" in refused.stderr
    assert (tmp_path / "models.yaml").read_text() == "mine"
    printed = tritonsmith("init", "m.onnx", "--output", "-")
    assert "onnx: m.onnx" in printed.stdout and (tmp_path / "models.yaml").read_text() == "mine"
    assert tritonsmith("init", "m.onnx", "--force").returncode == 0
    assert [m.name for m in load_spec(tmp_path / "models.yaml").models] == ["m"]


def test_a_live_config_without_what_every_server_adds() -> None:
    config = {
        "name": "m",
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "runtime": "",
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": 8,
        "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [3], "is_shape_tensor": False}],
        "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [3], "label_filename": "labels.txt"}],
        "optimization": {
            "priority": "PRIORITY_DEFAULT",
            "input_pinned_memory": {"enable": True},
            "output_pinned_memory": {"enable": True},
        },
        "dynamic_batching": {"preferred_batch_size": [8], "max_queue_delay_microseconds": 7},
        "instance_group": [{"name": "m_0", "kind": "KIND_CPU", "count": 2}],
        "default_model_filename": "model.onnx",
        "of_a_later_release": {},
    }
    ensemble = {
        "name": "e",
        "platform": "ensemble",
        "output": [{"name": "y"}],
        "ensemble_scheduling": {
            "step": [
                {"model_name": "m", "model_version": -1, "input_map": {"x": "x"}, "output_map": {"y": "y"}}
            ]
        },
    }
    found = imported_configs([config, ensemble])
    assert yaml.safe_load(text_of_spec(found.models))["models"] == {
        "m": {
            "source": {"onnx": "TODO/m.onnx"},
            "backend": "onnxruntime",
            "max_batch_size": 8,
            "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [3]}],
            "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [3], "label_filename": "labels.txt"}],
            "instance_group": [{"kind": "KIND_CPU", "count": 2}],
            "dynamic_batching": {"max_queue_delay_microseconds": 7},
            "model_files": {"labels.txt": "TODO/m/labels.txt"},
        },
        "e": {"source": {"steps": [{"model": "m", "from": {"x": "x"}, "to": {"y": "y"}}]}},
    }
    assert "of_a_later_release" in found.notes[0].message


PLACES = [
    ("../up", "inside"),
    ("/abs", "inside"),
    ("config.pbtxt", "spec"),
    ("a/../../b", "inside"),
    ("", "inside"),
]


@pytest.mark.parametrize(("place", "word"), PLACES)
def test_a_placed_file_stays_inside_its_model(tmp_path: Path, place: str, word: str) -> None:
    path = tmp_path / "models.yaml"
    path.write_text(f"models:\n  m:\n    source: {{directory: d}}\n    model_files: {{'{place}': x}}\n")
    with pytest.raises(TritonsmithError, match=word):
        load_spec(path)


def test_names_are_quoted_and_those_that_no_spec_can_have_are_told(tmp_path: Path, tritonsmith: Run) -> None:
    names = [
        "yes",
        "1",
        "0x1f",
        "a b",
        "a: b",
        "#x",
        "{x}",
        "- x",
        "'",
        '"',
        "null",
        "2001-01-01",
        "ünïcode",
        "&a",
        "!t",
    ]
    refused = ["a\u202eb", "a\x9bb", "cafe\u0301", "x" * 210, "line\nbreak"]
    for name in [*names, *refused]:
        add_model(tmp_path / "r", name, affine(("n", 3)))
    made = tritonsmith("init", "r")
    assert made.returncode == 0, made.stderr
    assert sorted(m.name for m in load_spec(tmp_path / "models.yaml").models) == sorted(names)
    assert made.stderr.count("is not in the spec") == len(refused)
    assert tritonsmith("plan").returncode == 0


def test_a_server_that_tells_impossible_names_gives_a_spec_of_the_others() -> None:
    def config(name: str, **more: Any) -> dict[str, Any]:
        return {"name": name, "backend": "onnxruntime", "max_batch_size": 4, **more}

    hostile = [
        config("../up"),
        config("a\u202eb"),
        config("A"),
        config("a"),
        config("\uff41"),
        config("t", input=[{"name": "x\u200b", "data_type": "TYPE_FP32", "dims": ["1"]}]),
        config(
            "p", output=[{"name": "y", "data_type": "TYPE_FP32", "dims": ["1"], "label_filename": "../../x"}]
        ),
        config("good", parameters={"k": {"string_value": "two\nlines: [and more]"}}),
    ]
    found = without_refused(imported_configs(hostile))
    assert [m.name for m in found.models] == ["A", "good"]
    assert len(found.notes) == 6 and all("is not in the spec" in n.message for n in found.notes)
    data = yaml.safe_load(text_of_spec(found.models))["models"]
    assert data["good"]["parameters"] == {"k": "two\nlines: [and more]"}
    with pytest.raises(TritonsmithError, match="no model") as caught:
        without_refused(imported_configs([config("../up")]))
    assert caught.value.exit_code == 2
