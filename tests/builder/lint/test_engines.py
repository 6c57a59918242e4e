"""Engines for several kinds of GPU, with several optimization profiles, and with a runtime of their own: what is found."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.builder.lint.fixtures import Tree, engine_tree, tree
from tritonsmith.builder.lint.check import LintOptions, check
from tritonsmith.builder.lint.target import Target, server_args_from_list
from tritonsmith.builder.plan.targets import serving_target
from tritonsmith.builder.spec.spec import Target as StatedTarget

KINDS = (
    'cc_model_filenames [ { key: "9.0" value: "model_sm90.plan" }, { key: "8.9" value: "model_sm89.plan" } ]'
)


def plans(**built_for: str) -> Tree:
    """A version with two plans and no model.plan; sm90=…, sm89=…: what each was built for."""
    sidecar = json.loads(engine_tree("").files["repository/m/1/model.plan.json"])
    more = {}
    for name, capability in built_for.items():
        more[f"1/model_{name}.plan"] = "plan"
        more[f"1/model_{name}.plan.json"] = json.dumps({**sidecar, "compute_capability": capability})
    laid_out = tree(f'backend: "tensorrt"\n{KINDS}', more=more)
    return Tree({n: c for n, c in laid_out.files.items() if not n.endswith("1/model.plan")}, laid_out.paths)


def found(laid_out: Tree, tmp_path: Path, options: LintOptions | None = None) -> list[tuple[str, str]]:
    laid_out.write(tmp_path)
    return [(f.rule, f.message) for f in check([tmp_path / "repository"], options)]


def started_with(flags: Sequence[str]) -> LintOptions:
    return LintOptions(target=Target(tensorrt="10.16.0", server_args=server_args_from_list(flags)))


def test_each_kinds_plan_is_held_against_the_gpu_that_loads_it(tmp_path: Path) -> None:
    assert found(plans(sm90="9.0", sm89="8.9"), tmp_path) == []
    (problem,) = found(plans(sm90="9.0", sm89="9.0"), tmp_path / "swapped")
    assert problem[0] == "TRT002" and "built for compute capability 9.0, served on 8.9" in problem[1]
    # A server with one of the kinds takes that kind's plan; the others' are none of its business.
    one = LintOptions(target=Target(compute_capability="9.0"))
    assert found(plans(sm90="9.0", sm89="8.9"), tmp_path / "one", one) == []


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (None, []),
        (["--backend-config=tensorrt,version-compatible=true"], []),
        # Its own TensorRT, and still it brings code along that nobody trusts.
        ([], ["TRT001"]),
        (["--backend-config=tensorrt,version-compatible=false"], ["TRT001"]),
    ],
)
def test_a_plan_with_a_runtime_of_its_own_needs_a_server_that_trusts_it(
    tmp_path: Path, flags: Sequence[str] | None, expected: list[str]
) -> None:
    options = None if flags is None else started_with(flags)
    rules = [rule for rule, _ in found(engine_tree("", version_compatible=True), tmp_path, options)]
    assert rules == expected


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        # Without `profile` an instance runs the first alone, which ends at 8.
        ("", ["BATCH014"]),
        ("instance_group { kind: KIND_GPU }", ["BATCH014"]),
        ('instance_group { profile: "1" }', []),
        ('instance_group [ { profile: "0" }, { profile: "1" } ]', []),
    ],
)
def test_the_largest_batch_is_that_of_the_profiles_that_run(
    tmp_path: Path, groups: str, expected: list[str]
) -> None:
    profiles: list[dict[str, Any]] = [
        {"x": {"min": [1, 4], "opt": [size, 4], "max": [size, 4]}} for size in (8, 32)
    ]
    laid_out = engine_tree(f"max_batch_size: 32\n{groups}", profiles=profiles)
    assert [r for r, _ in found(laid_out, tmp_path) if r == "BATCH014"] == expected


def test_kinds_of_gpus_are_not_how_many_a_server_has(tmp_path: Path) -> None:
    """`gpus: [h100]` is a kind: a group on GPU 3 of eight is fine."""
    target = serving_target(StatedTarget(gpus=("h100",))).target
    laid_out = tree("instance_group { kind: KIND_GPU gpus: [ 3 ] }")
    assert found(laid_out, tmp_path, LintOptions(target=target)) == []
