"""One model's fault, expected or not, costs one model: the others are built, planned, checked and imported."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests import onnx_models
from tests.conftest import Run
from tritonsmith.builder.base.errors import BuildError, UnexpectedError
from tritonsmith.builder.base.machine.machine import this_machine
from tritonsmith.builder.base.machine.toolchain import this_toolchain
from tritonsmith.builder.base.processes.failure import failure_of
from tritonsmith.builder.build.context import BuildOptions, context_of
from tritonsmith.builder.cache.cache import Cache
from tritonsmith.builder.lint.check import LintOptions, judge, report
from tritonsmith.builder.lint.read.model import read_repository
from tritonsmith.builder.lint.rule import Context, Hit, rule
from tritonsmith.builder.lint.table import RULES
from tritonsmith.builder.lint.target import Target
from tritonsmith.builder.plan.observe import observe
from tritonsmith.builder.repository.lock import Lock

# What a stranger's code may do to the process that runs it. They are samples' callables, so that torch need not start.
FAULTS = """
import ctypes, os, pathlib, threading

class Base(BaseException):
    pass

class Dumb(Exception):
    def __init__(self):
        self.held = threading.Lock()  # cannot be pickled
    def __str__(self):
        raise RuntimeError("no words")

class Odd(dict):
    def items(self):
        raise AssertionError("odd items")
    keys = values = __iter__ = __getitem__ = __len__ = get = items

def leaves(): raise SystemExit(0)
def base(): raise Base("not even an Exception")
def interrupts(): raise KeyboardInterrupt
def dumb(): raise Dumb()
def recursion(): return recursion()
def memory(): raise MemoryError
def vanishes(): os._exit(0)
def crashes(): ctypes.string_at(0)
def odd(): return [Odd()]
def deletes():
    import numpy
    pathlib.Path("deletes.onnx").unlink()
    return [{"x": numpy.ones((1, 3), "float32")}]
"""
# name → (code of its error, words of its message)
EXPECTED = {
    "leaves": ("callable_failed", "SystemExit"),
    "base": ("callable_failed", "Base: not even an Exception"),
    "interrupts": ("callable_failed", "KeyboardInterrupt"),
    "dumb": ("callable_failed", "raised Dumb"),
    "recursion": ("callable_failed", "RecursionError"),
    "memory": ("callable_failed", "MemoryError"),
    "vanishes": ("export_crashed", "exit status 0 without an answer"),
    "crashes": ("export_crashed", "SIGSEGV"),
    "odd": ("unexpected", "AssertionError: odd items"),
    "deletes": ("disk", "No such file or directory"),
}


def project(directory: Path, *names: str, more: str = "") -> None:
    """One ONNX model a name; those that FAULTS has a function for take their samples from it."""
    (directory / "faults.py").write_text(FAULTS)
    lines = ["models:"]
    for name in names:
        onnx_models.save(onnx_models.affine(("batch", 3)), directory / f"{name}.onnx")
        lines += [f"  {name}:", f"    source: {{onnx: {name}.onnx}}", "    max_batch_size: 4"]
        if f"def {name}(" in FAULTS:
            lines += [f'    accuracy: {{samples: "faults:{name}"}}']
    (directory / "models.yaml").write_text("\n".join(lines) + "\n" + more)


@pytest.mark.parametrize("more", [(), ("--artifacts-only",)], ids=["laid out", "artifacts only"])
def test_whatever_one_models_code_does_the_others_are_built(
    tmp_path: Path, tritonsmith: Run, more: tuple[str, ...]
) -> None:
    names = EXPECTED if not more else ("odd", "deletes")
    project(tmp_path, "first", *names, "last")
    done = tritonsmith("build", "--format", "json", *more)
    assert done.returncode == 1, done.stderr
    models = {m["model"]: m for m in json.loads(done.stdout)["models"]}
    built = "cached" if more else "exported"
    assert {n: m["action"] for n, m in models.items()} == {
        "first": built,
        **dict.fromkeys(names, "failed"),
        "last": built,
    }
    for name in names:
        error = models[name]["error"]
        code, words = EXPECTED[name]
        assert error["code"] == code and words in error["message"] and name in error["message"], error
        # A bug, and only a bug, shows its traceback, after all else.
        assert ("traceback" in error) == (name == "odd")
    assert done.stderr.count("Traceback (most recent call last)") == 1
    last_error = max(done.stderr.index(f"error[{EXPECTED[n][0]}]") for n in names)
    assert "in items" in done.stderr[last_error:] and done.stderr.index("Traceback") > last_error
    if not more:
        assert sorted(p.name for p in (tmp_path / "model_repository").iterdir()) == ["first", "last"]
        assert sorted(json.loads((tmp_path / "models.lock.json").read_text())["models"]) == ["first", "last"]


def test_a_template_that_fails_on_one_model_costs_one_model(tmp_path: Path, tritonsmith: Run) -> None:
    """It fails in the build's own process, while the model is laid out."""
    project(tmp_path, "good", "template")
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "config.pbtxt.j2").write_text(
        '{% extends "builtin/config.pbtxt.j2" %}\n'
        '{% block header %}{% if "template" in config.name.items[0] | string %}{{ 1 // 0 }}{% endif %}'
        "{{ raw(super()) }}{% endblock %}\n"
    )
    done = tritonsmith("build", "--templates", "templates")
    assert done.returncode == 1 and "1 of 2 models written, 1 failed" in done.stdout, done.stderr
    assert "error[unexpected]: template: failed unexpectedly: ZeroDivisionError" in done.stderr
    assert done.stderr.count("Traceback") == 1 and 'config.pbtxt.j2", line 2' in done.stderr
    assert [p.name for p in (tmp_path / "model_repository").iterdir()] == ["good"]


def test_a_model_that_cannot_be_observed_is_a_failure_and_is_not_removed(
    tmp_path: Path, tritonsmith: Run
) -> None:
    project(tmp_path, "other", "refused")
    assert tritonsmith("build").returncode == 0
    cache = Cache(tmp_path / "cache")
    context = context_of(BuildOptions(tmp_path / "models.yaml", cache=cache))
    locked = dict(context.lock.models)
    # The kernel takes no such name, and pathlib says so with a ValueError; a lock that is read is refused for it.
    locked["refused"] = replace(locked["refused"], dependencies={"\0": ""})
    observed, failures = observe(
        context.spec,
        Lock(locked),
        cache,
        this_toolchain(),
        context.repository,
        None,
        {"other", "refused"},
        this_machine(),
    )
    assert list(observed) == ["other"] and list(failures) == ["refused"]
    assert isinstance(failures["refused"], UnexpectedError) and "null byte" in failures["refused"].message
    seen = replace(context, observed=observed, failures=failures)
    assert {a.model for a in seen.plan().actions} == {"other"}, "what is not known stays as it is"
    with pytest.raises(UnexpectedError):
        seen.seen("refused")


def test_a_rule_that_fails_on_one_model_is_a_failure_and_the_others_are_judged(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "1").mkdir(parents=True)
        onnx_models.save(onnx_models.affine(("batch", 3)), tmp_path / name / "1" / "model.onnx")
        (tmp_path / name / "config.pbtxt").write_text('backend: "onnxruntime"\nmax_batch_size: -1\n')
    others = report([tmp_path], LintOptions()).findings

    @rule("BUG001", "error", "load", then="", fix="", source="", bad="", good="")
    def fails(model: object, context: object) -> list[Hit]:
        """Fails on one."""
        return [][(model.name == "two" and 1) or 5] if model.name == "two" else []  # type: ignore[attr-defined]

    repository = read_repository(tmp_path)
    context = Context(repository, (repository,), Target(), True, None)
    failures: list[object] = []
    found = [
        finding
        for model in repository.models.values()
        for finding in judge(model, context, [fails, *RULES.values()], failures)  # type: ignore[arg-type]
        if RULES.get(finding.rule) is not None
    ]
    assert {f.rule for f in found} >= {f.rule for f in others} and len(found) >= len(others) > 0
    (failure,) = failures
    assert isinstance(failure, UnexpectedError) and failure.message.startswith(
        "two, BUG001: failed unexpectedly"
    )


def test_init_of_many_files_leaves_out_the_one_that_is_none(tmp_path: Path, tritonsmith: Run) -> None:
    for name in ("a", "c"):
        onnx_models.save(onnx_models.affine(("batch", 3)), tmp_path / f"{name}.onnx")
    (tmp_path / "b.onnx").write_bytes(b"\x08\x07not a model" * 9)
    done = tritonsmith("init", ".", "--format", "json")
    assert done.returncode == 2 and "error[not_onnx]" in done.stderr and "b.onnx" in done.stderr
    told = json.loads(done.stdout)
    assert [m["name"] for m in told["models"]] == ["a", "c"] and len(told["errors"]) == 1
    assert tritonsmith("plan").returncode == 0


def test_an_exception_without_words_is_told_by_its_type() -> None:
    class DumbError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    told = failure_of(DumbError(), "m")
    assert str(told).startswith("m: failed unexpectedly: DumbError") and "DumbError" in told.traceback
    expected = BuildError("x", code="y")
    assert failure_of(expected, "m") is expected
