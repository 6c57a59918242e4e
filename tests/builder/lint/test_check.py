"""What `check` takes, selects, suppresses and says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builder.lint.fixtures import MODEL_PY, Tree, model, onnx_bytes, tree, with_base
from tritonsmith.builder.base.errors import UsageError
from tritonsmith.builder.base.machine.releases import releases
from tritonsmith.builder.lint.check import LintOptions, check, report
from tritonsmith.builder.lint.read.model import read_model
from tritonsmith.builder.lint.rules.ensembles.ensemble import ONE_STEP
from tritonsmith.builder.lint.target import Target, onnx_limits, server_args_from_list, target_from_text


def rules(paths: list[Path], options: LintOptions | None = None) -> list[str]:
    return [finding.rule for finding in check(paths, options)]


def test_repository_model_directory_and_file_are_judged_alike(tmp_path: Path) -> None:
    tree("max_batch_size: -1").write(tmp_path)
    directory = tmp_path / "repository" / "m"
    expected = ["BATCH001"]
    assert rules([tmp_path / "repository"]) == expected
    assert rules([directory]) == expected
    assert rules([directory / "config.pbtxt"]) == expected


def test_lone_config_is_not_judged_by_files_it_cannot_have(tmp_path: Path) -> None:
    path = tmp_path / "anything.pbtxt"
    path.write_text(with_base('name: "detector"'))
    assert rules([path]) == []


def test_model_directory_sees_the_models_beside_it_but_judges_itself(tmp_path: Path) -> None:
    Tree({**model(ONE_STEP, "pipeline"), **model("max_batch_size: -1", "m"), **model("", "other")}).write(
        tmp_path
    )
    assert rules([tmp_path / "repository" / "pipeline"]) == []
    assert report([tmp_path / "repository" / "pipeline"]).models == 1
    assert rules([tmp_path / "repository" / "m"]) == ["BATCH001"]
    assert report([tmp_path / "repository"]).models == 3


def test_model_without_config_is_told_from_a_repository(tmp_path: Path) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "1" / "model.onnx").write_bytes(onnx_bytes())
    assert report([tmp_path / "m"]).models == 1
    assert report([tmp_path]).models == 1
    assert rules([tmp_path / "m"]) == []


def test_step_model_may_stand_in_another_repository(tmp_path: Path) -> None:
    Tree({**model(ONE_STEP, "pipeline"), **model("", "m")}).write(tmp_path)
    (tmp_path / "second").mkdir()
    (tmp_path / "repository" / "m").rename(tmp_path / "second" / "m")
    assert rules([tmp_path / "repository"]) == ["ENS014"]
    assert rules([tmp_path / "repository", tmp_path / "second"]) == []


def test_findings_come_by_place(tmp_path: Path) -> None:
    Tree(
        {
            **model("max_batch_size: -1", "b"),
            **model("instance_group { kind: KIND_CPU gpus: 0 count: 0 }", "a"),
        }
    ).write(tmp_path)
    found = check([tmp_path / "repository"])
    places = [(str(f.path), f.line or 0, f.rule) for f in found]
    assert places == sorted(places)
    assert {f.model for f in found} == {"a", "b"}


@pytest.mark.parametrize(
    ("select", "ignore", "expected"),
    [
        ((), (), ["BATCH001", "INST002"]),
        (("BATCH001",), (), ["BATCH001"]),
        (("INST",), (), ["INST002"]),
        ((), ("BATCH001",), ["INST002"]),
        (("BATCH", "INST"), ("INST002",), ["BATCH001"]),
    ],
)
def test_rules_are_chosen_by_id_or_family(
    select: tuple[str, ...], ignore: tuple[str, ...], expected: list[str], tmp_path: Path
) -> None:
    paths = tree("max_batch_size: -1\ninstance_group { kind: KIND_CPU gpus: 0 }").write(tmp_path)
    assert sorted(rules(paths, LintOptions(None, frozenset(select), frozenset(ignore)))) == expected


def test_unknown_rule_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        check(tree("").write(tmp_path), LintOptions(select=frozenset({"BATHC001"})))
    assert caught.value.code == "unknown_rule" and "BATCH001" in str(caught.value.fix)


def test_absent_path_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        check([tmp_path / "absent"])
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "left", "why"),
    [
        ("max_batch_size: -1  # tritonsmith: ignore=BATCH001", [], "at the end of the line"),
        ("# tritonsmith: ignore=BATCH001\nmax_batch_size: -1", [], "on a line above"),
        ("# tritonsmith: ignore=BATCH001\n# because\n\nmax_batch_size: -1", [], "the next field counts"),
        ("max_batch_size: -1  # tritonsmith: ignore=BATCH002", ["BATCH001"], "another rule"),
        ("max_batch_size: -1  # tritonsmith: ignore=batch", [], "a family, in any case"),
        ("max_batch_size: -1  # tritonsmith: ignore=IO001, BATCH001", [], "several"),
        ("max_batch_size: -1  # tritonsmith: ignore=all", [], "all"),
        ("max_batch_size: -1\n# tritonsmith: ignore-file=BATCH001", [], "the whole file"),
        (
            "max_batch_size: -1\n# tritonsmith: ignore=BATCH001\n",
            ["BATCH001"],
            "a comment below does not count",
        ),
        (
            'max_batch_size: -1 name: "# tritonsmith: ignore-file=all"',
            ["BATCH001", "REPO002"],
            "text is no comment",
        ),
    ],
)
def test_comments_suppress(text: str, left: list[str], why: str, tmp_path: Path) -> None:
    paths = tree(text).write(tmp_path)
    assert sorted(set(rules(paths, LintOptions(ignore=frozenset({"REPO008"}))))) == left, why


@pytest.mark.parametrize(
    ("text", "release", "image"),
    [
        ("26.08", "26.08", "py3"),
        ("25.06-trtllm-python-py3", "25.06", "trtllm-python-py3"),
        ("24.10-py3", "24.10", "py3"),
    ],
)
def test_target_text(text: str, release: str, image: str) -> None:
    target = target_from_text(text)
    assert (target.release, target.image) == (release, image)


@pytest.mark.parametrize(
    ("text", "code"), [("26.99", "unknown_release"), ("26.08-cuda", "unknown_image"), ("", "unknown_release")]
)
def test_wrong_target_is_a_usage_error(text: str, code: str) -> None:
    with pytest.raises(UsageError) as caught:
        target_from_text(text)
    assert caught.value.code == code and caught.value.valid


def test_target_may_be_given_as_text(tmp_path: Path) -> None:
    paths = tree('backend: "onnxruntime"').write(tmp_path)
    assert rules(paths, LintOptions(target="25.06-vllm-python-py3")) == ["BACK004"]


def test_server_flags() -> None:
    flags = server_args_from_list(["--a=1", "--b", "2", "--c", "--a=3"])
    target = Target(server_args=flags)
    assert (target.flag("a"), target.flag("b"), target.flag("c"), target.flag("d")) == (
        ("1", "3"),
        ("2",),
        (),
        (),
    )
    assert target.is_on("c") and not target.is_on("d") and not Target().is_on("c")


def test_custom_config_name_is_judged_instead(tmp_path: Path) -> None:
    options = LintOptions(Target(server_args=server_args_from_list(["--model-config-name=h100"])))
    paths = tree("max_batch_size: -1", more={"configs/h100.pbtxt": with_base("")}).write(tmp_path)
    assert rules(paths, options) == []
    assert rules(paths) == ["BATCH001"]


def test_odd_repositories_never_raise(tmp_path: Path) -> None:
    root = tmp_path / "repository"
    (root / "empty").mkdir(parents=True)
    (root / "file").write_text("x")
    (root / "config_is_a_directory" / "config.pbtxt").mkdir(parents=True)
    (root / "broken_link" / "1").mkdir(parents=True)
    (root / "broken_link" / "1" / "model.onnx").symlink_to(tmp_path / "absent")
    (root / "loop").mkdir()
    (root / "loop" / "1").symlink_to(root / "loop")
    (root / "latin1" / "1").mkdir(parents=True)
    (root / "latin1" / "config.pbtxt").write_bytes(b'name: "\xe9"')
    (root / "big_version" / "99999999999999999999").mkdir(parents=True)
    (root / "big_version" / "99999999999999999999" / "model.py").write_text(MODEL_PY)
    (root / "file_version" / "config.pbtxt").parent.mkdir()
    (root / "file_version" / "1").write_text("no directory")
    for finding in check([root]):
        assert finding.fix
    assert check([tmp_path / "repository" / "empty"]) == []


def test_wrong_sidecars_say_nothing(tmp_path: Path) -> None:
    for content in (
        "",
        "[]",
        "{",
        '{"tensors": 3}',
        '{"profiles": [1]}',
        '{"tensors": [{"name": "x", "shape": "y"}]}',
    ):
        paths = tree('backend: "tensorrt"', more={"1/model.plan.json": content}).write(tmp_path)
        assert rules(paths) == []


def test_nested_ensembles_and_cycles_end(tmp_path: Path) -> None:
    a, b = ONE_STEP.replace('"m"', '"b"'), ONE_STEP.replace('"m"', '"a"')
    Tree({**model(a, "a"), **model(b, "b")}).write(tmp_path)
    assert set(rules([tmp_path / "repository"])) == {"ENS024", "ENS016", "ENS017", "ENS018"}


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        ("", [10]),
        ("version_policy { }", [10]),
        ("version_policy { latest { num_versions: 2 } }", [2, 10]),
        ("version_policy { latest { } }", []),
        ("version_policy { all { } }", [0, 1, 2, 10]),
        ("version_policy { specific { versions: [ 1, 7 ] } }", [1]),
    ],
)
def test_version_policy_selects(policy: str, served: list[int], tmp_path: Path) -> None:
    more: dict[str, str | bytes] = {f"{number}/model.py": MODEL_PY for number in ("0", "2", "10", "01", "v3")}
    tree(policy, more=more).write(tmp_path)
    model_read = read_model(tmp_path / "repository" / "m")
    assert [version.number for version in model_read.selected] == served


@pytest.mark.parametrize("release", list(releases()))
def test_every_release_with_a_known_onnxruntime_has_its_limits(release: str) -> None:
    runtime = Target(release=release).onnxruntime
    assert runtime is None or onnx_limits(runtime) is not None
