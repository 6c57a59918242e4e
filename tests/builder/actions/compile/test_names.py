"""Every TensorRT name in our code is in the vendor's bindings of TensorRT 10 and 11, and in TensorRT-RTX.

bindings.json was read from the vendor's wheels by read_bindings.py, see there.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

import tritonsmith.builder.actions.compile
import tritonsmith.perf.server

HERE = Path(__file__).parent
BINDINGS = json.loads((HERE / "bindings.json").read_text())["bindings"]
COMPILE = Path(tritonsmith.builder.actions.compile.__file__).parent
BACKEND = Path(tritonsmith.perf.server.__file__).with_name("backends") / "tensorrt"
MODULES = ("trt", "tensorrt")
# TensorRT-RTX alone has these; network.py asks for them only when a compute capability is given.
RTX_ONLY = {("", "ComputeCapability"), ("ComputeCapability", "__members__")}


class _Names(ast.NodeVisitor):
    """(class, member) of every use: `trt.A.B`, and `x.B` where x is annotated `tensorrt.A`; ("", A) for `trt.A`."""

    def __init__(self) -> None:
        self.kinds: dict[str, str] = {}
        self.used: set[tuple[str, str]] = set()

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if isinstance(node.target, ast.Name):
            self._note(node.target.id, node.annotation)
        self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> None:
        self._note(node.arg, node.annotation)
        self.generic_visit(node)

    def _note(self, name: str, annotation: ast.expr | None) -> None:
        for part in ast.walk(annotation) if annotation is not None else ():
            if isinstance(part, ast.Attribute) and _name(part.value) in MODULES:
                self.kinds[name] = part.attr

    def visit_Attribute(self, node: ast.Attribute) -> None:
        inner, owner = node.value, _name(node.value)
        if owner in MODULES:
            self.used.add(("", node.attr))
        elif isinstance(inner, ast.Attribute) and _name(inner.value) in MODULES:
            self.used.add((inner.attr, node.attr))
        elif owner in self.kinds:
            self.used.add((self.kinds[owner], node.attr))
        self.generic_visit(node)


def _name(node: ast.expr) -> str | None:
    return node.id if isinstance(node, ast.Name) else None


def used_names() -> set[tuple[str, str]]:
    used: set[tuple[str, str]] = set()
    for path in (*COMPILE.rglob("*.py"), *BACKEND.glob("*.py")):
        tree = ast.parse(path.read_text())
        for scope in [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]:
            names = _Names()
            names.visit(scope)
            used |= names.used
    return {pair for pair in used - RTX_ONLY if not pair[1].startswith("__")}


@pytest.mark.parametrize("version", BINDINGS)
def test_every_name_is_in_the_vendors_bindings(version: str) -> None:
    members = {kind: set(names.split()) for kind, names in BINDINGS[version]["members"].items()}
    used = used_names()
    assert ("IBuilderConfig", "progress_monitor") in used and ("BuilderFlag", "STRIP_PLAN") in used
    missing = sorted((k, n) for k, n in used if (n not in members if not k else n not in members.get(k, ())))
    assert "AMPERE_PLUS" in members["HardwareCompatibilityLevel"]  # looked up by name
    assert not missing, f"not in {BINDINGS[version]['source']}: {missing}"


def test_every_name_is_in_rtx() -> None:
    rtx = pytest.importorskip("tensorrt_rtx", reason="pip install 'tritonsmith[rtx]'")
    missing = [
        (kind, name)
        for kind, name in sorted(used_names())
        if not hasattr(rtx if not kind else getattr(rtx, kind), name)
    ]
    assert not missing


def test_removed_names_are_not_used() -> None:
    """TensorRT 11 has neither weak typing's flags nor int8 calibrators."""
    old, new = (
        set(BINDINGS[version]["members"]["BuilderFlag"].split()) for version in ("10.16.0.72", "11.4.0.106")
    )
    assert {"FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS"} <= old - new
    assert not {name for kind, name in used_names() if kind == "BuilderFlag"} & (old - new)
