"""Ensembles of ensembles: long chains, 2^30 paths and circles are told at once, without recursion."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tritonsmith.builder.base.errors import SpecError
from tritonsmith.builder.build.context import BuildOptions, plan_build
from tritonsmith.builder.cache.cache import Cache
from tritonsmith.builder.importing.files import imported_paths
from tritonsmith.builder.lint.check import LintOptions, check
from tritonsmith.builder.plan.order import called_models, in_build_order, with_steps
from tritonsmith.builder.spec.spec import RepositorySpec, load_spec

LONG = 1500
CHAIN = {f"e{i}": [f"e{i - 1}" if i else "base"] for i in range(LONG)}
DOUBLED = {f"e{i}": [f"e{i - 1}" if i else "base"] * 2 for i in range(30)}


def write_spec(tmp_path: Path, ensembles: dict[str, list[str]]) -> Path:
    tensors = "input: [{name: x, data_type: TYPE_FP32, dims: [1]}], output: [{name: y, data_type: TYPE_FP32, dims: [1]}]"
    lines = ["models:", f"  base: {{source: {{python: base.py}}, {tensors}}}"]
    for name, steps in ensembles.items():
        wired = ", ".join(f"{{model: {s}, from: {{x: X{i}}}, to: {{y: Y{i}}}}}" for i, s in enumerate(steps))
        lines.append(f"  {name}: {{source: {{steps: [{wired}]}}}}")
    (tmp_path / "base.py").write_text("class TritonPythonModel:\n    def execute(self, requests): ...\n")
    path = tmp_path / "models.yaml"
    path.write_text("\n".join(lines))
    return path


def write_repository(root: Path, ensembles: dict[str, list[str]]) -> Path:
    for name, steps in ensembles.items():
        (root / name / "1").mkdir(parents=True)
        text = 'platform: "ensemble"\n'
        for i, _ in enumerate(steps):
            text += "".join(
                f'{kind} {{ name: "{x}{i}" data_type: TYPE_FP32 dims: 1 }}\n'
                for kind, x in (("input", "X"), ("output", "Y"))
            )
        wired = ", ".join(
            f'{{ model_name: "{s}" model_version: -1 input_map {{ key: "X0" value: "X{i}" }}'
            f' output_map {{ key: "Y0" value: "Y{i}" }} }}'
            for i, s in enumerate(steps)
        )
        (root / name / "config.pbtxt").write_text(f"{text}ensemble_scheduling {{ step [ {wired} ] }}\n")
    return root


def loaded(tmp_path: Path, ensembles: dict[str, list[str]]) -> RepositorySpec:
    return load_spec(write_spec(tmp_path, ensembles))


def test_a_long_chain_is_ordered_from_its_end(tmp_path: Path) -> None:
    spec = loaded(tmp_path, dict(reversed(CHAIN.items())))
    ordered = [m.name for m in in_build_order(spec.models)]
    assert ordered == ["base", *CHAIN]
    last = next(m for m in spec.models if m.name == f"e{LONG - 1}")
    assert set(called_models(spec.models, last)) == {"base", *CHAIN} - {last.name}
    assert len(with_steps(spec.models, [last.name])) == LONG + 1


def test_two_to_the_thirty_paths_are_walked_once(tmp_path: Path) -> None:
    began = time.process_time()
    spec = loaded(tmp_path, dict(reversed(DOUBLED.items())))
    assert [m.name for m in in_build_order(spec.models)] == ["base", *DOUBLED]
    _, plan = plan_build(BuildOptions(spec.path, cache=Cache(tmp_path / "cache")))
    assert {a.model for a in plan.actions} == {"base", *DOUBLED}
    repository = write_repository(tmp_path / "repository", DOUBLED)
    assert {f.rule for f in check([repository])} == {"ENS014", "ENS017"}, (
        "base is not there, and of two inputs one is given"
    )
    assert len(imported_paths([repository], tmp_path).models) == 30
    assert time.process_time() - began < 2


@pytest.mark.parametrize("length", [1, 2, LONG])
def test_a_circle_is_named_however_long(tmp_path: Path, length: int) -> None:
    circle = {f"e{i}": [f"e{(i - 1) % length}"] for i in range(length)}
    with pytest.raises(SpecError) as caught:
        loaded(tmp_path, circle)
    assert caught.value.code == "ensemble_cycle" and "e0 → " in caught.value.message
    assert len(caught.value.message) < 300
    assert caught.value.where is not None and caught.value.where.line == 3


def test_lint_finds_circles_through_others_and_only_there(tmp_path: Path) -> None:
    ensembles = {"a": ["b"], "b": ["c", "d"], "c": ["a"], "d": ["d"], "outside": ["a"], "e": ["outside"]}
    found = check([write_repository(tmp_path, ensembles)], LintOptions(select=frozenset({"ENS024"})))
    assert {(f.model, f.seen) for f in found} == {("a", "b"), ("b", "c"), ("c", "a"), ("d", "d")}


def test_lint_of_a_long_circle_takes_the_time_of_its_length(tmp_path: Path) -> None:
    circle = {f"e{i}": [f"e{(i + 1) % 400}"] for i in range(400)}
    repository = write_repository(tmp_path, circle)
    began = time.process_time()
    assert len(check([repository], LintOptions(select=frozenset({"ENS024"})))) == 400
    assert time.process_time() - began < 2


def test_steps_in_reverse_are_put_in_turn_in_linear_time(tmp_path: Path) -> None:
    steps = ", ".join(
        f'{{ model_name: "m" model_version: -1 input_map {{ key: "x" value: "t{i}" }}'
        f' output_map {{ key: "y" value: "t{i + 1}" }} }}'
        for i in reversed(range(2000))
    )
    (tmp_path / "e" / "1").mkdir(parents=True)
    (tmp_path / "e" / "config.pbtxt").write_text(
        'platform: "ensemble"\ninput { name: "t0" data_type: TYPE_FP32 dims: 1 }\n'
        f'output {{ name: "t2000" data_type: TYPE_FP32 dims: 1 }}\nensemble_scheduling {{ step [ {steps} ] }}\n'
    )
    began = time.process_time()
    assert check([tmp_path], LintOptions(select=frozenset({"ENS013", "ENS023"}))) == []
    assert time.process_time() - began < 2
