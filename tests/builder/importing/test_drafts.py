"""What `init` makes of one file or callable, before anything is run: kinds, names, flags, candidates, programs, comments."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from tritonsmith.builder.base.errors import TritonsmithError, UsageError
from tritonsmith.builder.base.tensors import Dim, TensorSpec, dtype_from_kserve
from tritonsmith.builder.importing.drafts.asked import Asked, tensors_from_flags
from tritonsmith.builder.importing.drafts.candidates import candidates
from tritonsmith.builder.importing.drafts.names import module_from_file, name_of_callable
from tritonsmith.builder.importing.drafts.python_program import fields_of_program
from tritonsmith.builder.importing.drafts.recognise import kind_of_file, might_be_model
from tritonsmith.builder.importing.drafts.surface import Surface
from tritonsmith.builder.importing.files import imported_paths
from tritonsmith.builder.importing.guide import guide_to
from tritonsmith.builder.importing.imported import ImportedModel
from tritonsmith.builder.importing.spec_text import text_of_spec
from tritonsmith.builder.spec.spec import load_spec

PYTHON_MODEL = """
class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        text = {"name": "TEXT", "data_type": "TYPE_STRING", "dims": [1]}
        more = [{"name": "N", "data_type": "TYPE_INT32", "dims": [-1]}]
        config.add_input(text)
        for one in more:
            config.add_input(one)
        config.add_output({"name": "UPPER", "data_type": "TYPE_STRING", "dims": [1]})
        config.set_max_batch_size(8)
        return config
    def execute(self, requests):
        raise SystemExit("never run here")
"""
BARE_MODEL = """
class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            x = pb_utils.get_input_tensor_by_name(request, "PIXELS")
            y = pb_utils.Tensor("SCORE", x)
"""


def archive(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, "")
    return path


def test_files_that_torch_wrote_are_told_apart_by_what_is_in_them(tmp_path: Path) -> None:
    script = archive(tmp_path / "a.pt", "a/data.pkl", "a/code/__torch__.py", "a/constants.pkl")
    program = archive(tmp_path / "b.pt2", "b/models/model.json", "b/archive_format")
    misnamed = archive(tmp_path / "c.pt", "c/models/model.json")
    assert [kind_of_file(f) for f in (script, program, misnamed)] == [
        "torchscript",
        "exported_program",
        "exported_program",
    ]
    legacy = tmp_path / "old.pth"
    legacy.write_bytes(b"\x80\x02}q\x00.")
    for weights in (archive(tmp_path / "w.pt", "w/data.pkl", "w/data/0"), legacy):
        with pytest.raises(UsageError) as caught:
            kind_of_file(weights)
        assert caught.value.code == "checkpoint"
        assert "weights_only=True" in str(caught.value) and weights.name in str(caught.value)


FILES = [
    ("m.ubj", b"{L\x00\x07learner", "xgboost"),
    ("m.json", b'{"learner": {}}', "xgboost"),
    ("package.json", b'{"name": "x"}', "not_a_model"),
    ("m.txt", b"tree\nversion=v4\n", "lightgbm"),
    ("requirements.txt", b"torch\n", "not_a_model"),
    ("m.skops", b"", "sklearn"),
    ("up.py", PYTHON_MODEL.encode(), "python"),
    ("net.py", b"x = 1", "no_python_model"),
    ("m.safetensors", b"", "unknown_file"),
    ("m.h5", b"", "unknown_file"),
]


@pytest.mark.parametrize(("name", "content", "expected"), FILES, ids=[f[0] for f in FILES])
def test_other_files_are_told_by_name_and_first_bytes(
    tmp_path: Path, name: str, content: bytes, expected: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    try:
        seen = kind_of_file(path)
    except TritonsmithError as error:
        seen = error.code
        assert error.fix or error.valid
    assert seen == expected
    # In a directory, what is no model is no error, either.
    assert might_be_model(path) is (expected in ("xgboost", "lightgbm", "sklearn", "python"))


def test_a_python_file_names_the_callable_that_may_be_meant(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text("import torch\ndef load():\n    return torch.nn.Linear(1, 1), torch.zeros(1, 1)")
    with pytest.raises(UsageError, match=re.escape(f"tritonsmith init {file}:load")):
        kind_of_file(file)
    assert module_from_file(file, "load", tmp_path) == "net"
    with pytest.raises(UsageError, match="cannot be imported"):
        module_from_file(file, "load", tmp_path / "below")


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("minilm:load", "minilm"),
        ("nets:load_small", "small"),
        ("a.b.net:Detector", "Detector"),
        ("a.b:make_model", "b"),
    ],
)
def test_a_callable_names_its_model(reference: str, name: str) -> None:
    assert name_of_callable(reference) == name


def test_flags_state_tensors() -> None:
    x, y = tensors_from_flags(["a:b:FP32:3,height,-1", "TEXT:TYPE_STRING:1"], "--input")
    assert (x.name, x.dtype.kserve, x.shape) == ("a:b", "FP32", (3, "height", -1))
    assert (y.dtype.kserve, y.shape) == ("BYTES", (1,))
    for bad, word in (
        ("x", "NAME:TYPE:DIMS"),
        ("x:F32:3", "FP32"),
        ("x:FP32:0", "a size"),
        ("x:FP32:a-b", "a size"),
    ):
        with pytest.raises(UsageError) as caught:
            tensors_from_flags([bad], "--input")
        assert caught.value.code == "bad_tensor" and word in str(caught.value)


def tensor(name: str, dtype: str, *shape: Dim) -> TensorSpec:
    return TensorSpec(name, dtype_from_kserve(dtype), shape)


def dims_of(fields: dict[str, Any]) -> list[list[Dim]]:
    return [t["dims"] for t in fields.get("input", ())]


def test_open_sizes_are_named_and_ranged_by_what_they_usually_are() -> None:
    image = Surface((tensor("x", "FP32", "s1", 3, "s2", "s3"),), {"s1": 2, "s2": 64, "s3": 48})
    wide, narrow, fixed, unbatched = candidates(image, "image")
    assert dims_of(wide) == dims_of(narrow) == [[3, "height", "width"]]
    assert wide["dynamic_dims"] == {
        "height": {"min": 32, "opt": 64, "max": 128},
        "width": {"min": 24, "opt": 48, "max": 96},
    }
    assert narrow["dynamic_dims"]["height"] == {"min": 1, "opt": 64, "max": 64}
    assert fixed == {"max_batch_size": 8, "dynamic_batching": {}} and unbatched == {"max_batch_size": 0}

    ids = [tensor(name, "INT64", "s1", "s2") for name in ("ids", "mask")]
    text = candidates(Surface(tuple(ids), {"s1": 2, "s2": 12}, {"s2": 256}), "text")[0]
    assert dims_of(text) == [["sequence"], ["sequence"]] and text["max_batch_size"] == 32
    assert text["dynamic_dims"] == {"sequence": {"min": 1, "opt": 128, "max": 256}}

    audio = candidates(Surface((tensor("wave", "FP32", "s1", "s2"),), {"s1": 2, "s2": 8000}), "audio")[0]
    assert dims_of(audio) == [["length"]] and audio["dynamic_dims"]["length"]["opt"] == 8000


def test_names_of_the_users_stay_and_relations_are_left_to_the_user() -> None:
    own = candidates(Surface((tensor("x", "FP32", "n", 3, "h", "w"),)), None)[0]
    assert dims_of(own) == [[3, "h", "w"]] and own["max_batch_size"] == 4
    related = candidates(Surface((tensor("x", "FP32", "s1", "2*s2"),), {"s1": 2}), None)
    assert related == [{"max_batch_size": 4, "dynamic_batching": {}}, {"max_batch_size": 0}]
    mixed = candidates(Surface((tensor("x", "FP32", "s1", 3), tensor("y", "FP32", 7))), None)
    assert mixed == [{"max_batch_size": 0}]


def test_a_source_that_tells_no_inputs_states_them_in_every_candidate() -> None:
    tried = candidates(Surface((tensor("x", "FP32", "batch", 4),), {"batch": 2}), None, needs_inputs=True)
    assert [dims_of(fields) for fields in tried] == [[[4]], [["rows", 4]]]


def test_a_programs_tensors_are_read_from_its_text(tmp_path: Path) -> None:
    file = tmp_path / "up.py"
    file.write_text(PYTHON_MODEL)
    fields, _ = fields_of_program(file, Asked())
    assert fields == {
        "max_batch_size": 8,
        "input": [
            {"name": "TEXT", "data_type": "TYPE_STRING", "dims": [1]},
            {"name": "N", "data_type": "TYPE_INT32", "dims": [-1]},
        ],
        "output": [{"name": "UPPER", "data_type": "TYPE_STRING", "dims": [1]}],
    }


def test_a_program_that_tells_none_names_the_flags_that_do(tmp_path: Path) -> None:
    file = tmp_path / "bare.py"
    file.write_text(BARE_MODEL)
    with pytest.raises(UsageError) as caught:
        fields_of_program(file, Asked())
    assert caught.value.code == "tensors_not_stated"
    assert "--input PIXELS:" in str(caught.value) and "--output-tensor SCORE:" in str(caught.value)
    asked = Asked(
        inputs=tensors_from_flags(["PIXELS:FP32:3,8"], "--input"),
        outputs=tensors_from_flags(["SCORE:FP32:1"], "--output-tensor"),
    )
    model = imported_paths([file], tmp_path, asked).models[0]
    assert model.source == {"python": "bare.py"} and model.fields["input"][0]["dims"] == [3, 8]


def test_a_pickle_is_not_loaded_unasked(tmp_path: Path) -> None:
    (tmp_path / "m.pkl").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    with pytest.raises(UsageError, match="--trust") as caught:
        imported_paths([tmp_path / "m.pkl"], tmp_path)
    assert caught.value.code == "untrusted_pickle" and not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("asked", "code"),
    [(Asked(name="x"), "several_models"), (Asked(name="a/b"), "several_models"), (Asked(), "")],
)
def test_flags_of_one_model_hold_for_one(tmp_path: Path, asked: Asked, code: str) -> None:
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text(PYTHON_MODEL)
    if not code:
        assert [m.name for m in imported_paths([tmp_path], tmp_path, asked).models] == ["a", "b"]
        return
    with pytest.raises(UsageError) as caught:
        imported_paths([tmp_path], tmp_path, asked)
    assert caught.value.code == code


def test_flags_that_a_repository_has_no_use_for_are_refused(tmp_path: Path) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    for asked, flag in ((Asked(preset="text"), "--preset"), (Asked(name="x"), "--name")):
        with pytest.raises(UsageError, match=flag) as caught:
            imported_paths([tmp_path], tmp_path, asked)
        assert caught.value.code == "config_is_there"


def test_a_name_that_no_model_can_have_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(PYTHON_MODEL)
    with pytest.raises(UsageError, match="--name NAME") as caught:
        imported_paths([tmp_path / "a.py"], tmp_path, Asked(name="a/b"))
    assert caught.value.code == "model_name"
    assert imported_paths([tmp_path / "a.py"], tmp_path, Asked(name="b")).models[0].name == "b"


def test_what_is_commented_out_is_a_valid_spec_when_it_is_not(tmp_path: Path) -> None:
    """Each key below the entry stands at the right depth, and means what it says."""
    model = ImportedModel("m", {"onnx": "m.onnx"}, {"max_batch_size": 4, "dynamic_batching": {}}, {})
    text = text_of_spec([model], [], guide_to([model], {"m": "tritonsmith sweep model_repository/ -m m"}))
    keys = re.compile(r"^    # ((?:  )?[a-z0-9_]+: .*|variants:)$", re.M)
    assert len(keys.findall(text)) >= 8
    spec = tmp_path / "models.yaml"
    spec.write_text(keys.sub(r"    \1", text))
    read = load_spec(spec).models[0]
    assert set(read.variants) == {"fp32", "fp16", "int8"} and read.serve == "fp16"
    assert read.calibration == "calibration.npz" and read.accuracy.samples == "samples.npz"
    assert yaml.safe_load(text)["models"]["m"] == {"source": {"onnx": "m.onnx"}, **model.fields}
