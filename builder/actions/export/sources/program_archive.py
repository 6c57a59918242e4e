"""A .pt2 file → a yes to loading it, or the error that says which part of it could run code."""

from __future__ import annotations

import ast
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tritonsmith.builder.base.errors import ExportError

# Compiled code (.so) of torch's ahead-of-time compiler; loading the archive would load it too.
_COMPILED = "data/aotinductor/"
_CONSTANTS = re.compile(r"(^|/)data/constants/[^/]*config\.json$")


def check_archive(path: Path) -> None:
    """Looks into the archive without unpickling anything.

    torch.export.load runs code from three places: pickled custom objects among the constants, compiled
    AOTInductor libraries, and symbolic sizes, which sympy evaluates as Python text. (Pickled tensors go
    through torch.load, which the caller holds to weights_only.) Layout: torch/export/pt2_archive.
    ExportError: source_missing, corrupt_program, unsafe_program.
    """
    if not path.is_file():
        raise ExportError("the ExportedProgram file does not exist", code="source_missing")
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if _COMPILED in info.filename:
                    raise _unsafe(info.filename, "compiled code")
                if info.filename.endswith(".json"):
                    _check_json(info.filename, json.loads(archive.read(info)))
    except (zipfile.BadZipFile, EOFError, ValueError, OSError) as error:
        raise ExportError(
            f"not an ExportedProgram, or a damaged one: {error}",
            code="corrupt_program",
            fix="write it with torch.export.save(torch.export.export(...), file)",
        ) from error


def _check_json(name: str, content: Any) -> None:
    if _CONSTANTS.search(name) and isinstance(content, dict):
        for payload in content.get("config", {}).values():
            file = str(payload.get("path_name", ""))
            if not file.startswith("tensor_"):
                raise _unsafe(f"{name}: {file}", "a pickled object")
    for text in _expressions(content):
        if not _is_arithmetic(text):
            raise _unsafe(text[:120], "a symbolic size that is no arithmetic")


# What sympy.srepr writes, and plain arithmetic: calls of classes, names, numbers, operators.
_ARITHMETIC = (
    ast.Expression,
    ast.Call,
    ast.keyword,
    ast.Name,
    ast.Load,
    ast.Constant,
    ast.BinOp,
    ast.UnaryOp,
    ast.BoolOp,
    ast.Compare,
    ast.operator,
    ast.unaryop,
    ast.boolop,
    ast.cmpop,
)


def _is_arithmetic(text: str) -> bool:
    try:
        nodes = list(ast.walk(ast.parse(text.strip(), mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    for node in nodes:
        if not isinstance(node, _ARITHMETIC):
            return False
        if isinstance(node, ast.Call) and not (isinstance(node.func, ast.Name) and node.func.id[0].isupper()):
            return False
        names = [node.id] if isinstance(node, ast.Name) else []
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.append(node.value)
        if any("__" in name or not re.fullmatch(r"[\w.+-]*", name) for name in names):
            return False
    return True


def _expressions(content: Any) -> Iterator[str]:
    if isinstance(content, dict):
        for key, value in content.items():
            if key == "expr_str" and isinstance(value, str):
                yield value
            else:
                yield from _expressions(value)
    elif isinstance(content, list):
        for item in content:
            yield from _expressions(item)


def _unsafe(seen: str, what: str) -> ExportError:
    return ExportError(
        f"the ExportedProgram holds {what}, which loading would run",
        code="unsafe_program",
        seen=seen,
        fix="give the model as torch: module:callable instead, code you can read",
    )
