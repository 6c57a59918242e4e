"""A file with a TritonPythonModel → its inputs and outputs, as far as its text states them; nothing is run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tritonsmith.builder.base.errors import UsageError, Where
from tritonsmith.builder.base.tensors import TensorSpec, dtype_from_config
from tritonsmith.builder.importing.drafts.asked import Asked

_KINDS = {"input": "add_input", "output": "add_output"}
_FLAGS = {"input": "--input", "output": "--output-tensor"}
_CALLS = {"input": "get_input_tensor_by_name", "output": "Tensor"}


def fields_of_program(path: Path, asked: Asked) -> tuple[dict[str, Any], list[str]]:
    """(fields, remarks): tensors of the flags, else the literals that auto_complete_config adds.

    UsageError tensors_not_stated, with the names that execute uses and the flags that state them.
    """
    tree = ast.parse(path.read_bytes(), str(path))
    stated = {
        "input": [_as_fields(t) for t in asked.inputs],
        "output": [_as_fields(t) for t in asked.outputs],
    }
    fields: dict[str, Any] = {"max_batch_size": _max_batch_size(tree) or 0}
    for kind, method in _KINDS.items():
        fields[kind] = stated[kind] or list(_added(tree, method))
    missing = [kind for kind in _KINDS if not fields[kind]]
    if missing:
        flags = " ".join(
            f"{_FLAGS[kind]} {name}:{'STRING' if kind == 'input' else 'FP32'}:1"
            for kind in missing
            for name in _names(tree, kind) or [kind.upper()]
        )
        raise UsageError(
            f"a Python model's {' and '.join(f'{kind}s' for kind in missing)} are told by nothing in the file",
            code="tensors_not_stated",
            where=Where(path),
            valid=("--input and --output-tensor", "an auto_complete_config that adds literals"),
            fix=f"tritonsmith init {path} {flags}   (type and dims are examples)",
        )
    remark = (
        "each execute gets several requests; with max_batch_size above 0 the first dimension is added to dims, and "
        "execute has to take it"
    )
    return fields, [remark] if fields["max_batch_size"] == 0 else []


def _as_fields(tensor: TensorSpec) -> dict[str, Any]:
    return {"name": tensor.name, "data_type": tensor.dtype.config, "dims": list(tensor.shape) or [1]}


def _added(tree: ast.Module, method: str) -> Iterator[dict[str, Any]]:
    """Literals given to add_input or add_output: written there, by a name, or by a loop over a list of them."""
    for function in _functions(tree, "auto_complete_config"):
        values: dict[str, list[ast.expr]] = {}
        for node in ast.walk(function):
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    if isinstance(target, ast.Name):
                        values[target.id] = [node.value]
        for node in ast.walk(function):
            if isinstance(node, ast.For) and isinstance(node.target, ast.Name):
                over = (
                    values.get(node.iter.id, [node.iter]) if isinstance(node.iter, ast.Name) else [node.iter]
                )
                values[node.target.id] = [
                    e for v in over if isinstance(v, ast.List | ast.Tuple) for e in v.elts
                ]
        for call in _calls(function, method):
            for argument in call.args[:1]:
                given = values.get(argument.id, []) if isinstance(argument, ast.Name) else [argument]
                items = [i for v in given for i in (values.get(v.id, []) if isinstance(v, ast.Name) else [v])]
                yield from filter(None, map(_literal, items))


def _literal(node: ast.expr) -> dict[str, Any] | None:
    try:
        value = ast.literal_eval(node)
        dtype_from_config(value["data_type"])
        dims = [int(d) for d in value["dims"]]
        return {"name": str(value["name"]), "data_type": value["data_type"], "dims": dims}
    except (ValueError, TypeError, KeyError, SyntaxError):
        return None


def _max_batch_size(tree: ast.Module) -> int | None:
    for function in _functions(tree, "auto_complete_config"):
        for call in _calls(function, "set_max_batch_size"):
            if call.args and isinstance(call.args[0], ast.Constant) and isinstance(call.args[0].value, int):
                return call.args[0].value
    return None


def _names(tree: ast.Module, kind: str) -> list[str]:
    """Literal names that execute asks for, or gives to pb_utils.Tensor."""
    return list(
        dict.fromkeys(
            argument.value
            for function in _functions(tree, "execute")
            for call in _calls(function, _CALLS[kind])
            for argument in call.args[:2]
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
        )
    )


def _functions(tree: ast.Module, name: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
            yield node


def _calls(function: ast.AST, name: str) -> Iterator[ast.Call]:
    for node in ast.walk(function):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called == name:
                yield node
