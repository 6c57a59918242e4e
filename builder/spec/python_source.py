"""A python source → model.py, the files beside it and requirements.txt, as Triton's python backend finds them."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

from tritonsmith.builder.base.errors import ExportError, SpecError, Where
from tritonsmith.builder.base.files.package_files import source_path
from tritonsmith.builder.spec.spec import ModelSpec, RepositorySpec, stated_tensors

MODEL_FILE = "model.py"
REQUIREMENTS_FILE = "requirements.txt"
_CLASS = "TritonPythonModel"


def check_python_source(model: ModelSpec, spec: RepositorySpec) -> None:
    """SpecError when its tensors are not stated in full: nothing can be inferred from a program."""
    for kind in ("input", "output"):
        tensors = stated_tensors(model, "input" if kind == "input" else "output")
        if not tensors or any(not (t["name"] and t["data_type"] and t["dims"] is not None) for t in tensors):
            raise SpecError(
                f"{model.name}: a python source states every {kind} with name, data_type and dims",
                code="tensors_not_stated",
                where=spec.where(model.name, kind),
                fix=f"{kind}: [{{name: TEXT, data_type: TYPE_STRING, dims: [1]}}]",
            )


def source_files(model: ModelSpec, root: Path) -> dict[str, Path]:
    """Name in the version directory → file; SpecError when two would have one name."""
    found = {MODEL_FILE: source_path(model.source.reference, root)}
    for reference in model.source.files:
        path = source_path(reference, root)
        if path.name in found or path.name == REQUIREMENTS_FILE:
            raise SpecError(
                f"{model.name}: two files would be laid out as {path.name}",
                code="duplicate_file",
                seen=reference,
            )
        found[path.name] = path
    return found


def place_python_source(model: ModelSpec, root: Path, into: Path) -> dict[str, Path]:
    """Copies the files into a version directory → name → source file. ExportError when model.py is none.

    The file is parsed, never run: what it imports need not be on the machine that builds.
    """
    files = source_files(model, root)
    _check_program(files[MODEL_FILE])
    for name, path in files.items():
        shutil.copyfile(path, into / name)
    if requirements := model.source.options["requirements"]:
        (into / REQUIREMENTS_FILE).write_text("".join(f"{r}\n" for r in requirements))
    return files


def _check_program(path: Path) -> None:
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # the last two: nested too deep
        line = getattr(error, "lineno", None)
        raise ExportError(
            f"not valid Python: {error}", code="python_syntax", where=Where(path, line)
        ) from None
    model = next((n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == _CLASS), None)
    methods = (
        {n.name for n in model.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}
        if model
        else set()
    )
    if model is None or "execute" not in methods:
        raise ExportError(
            f"Triton's python backend needs a class {_CLASS} with a method execute",
            code="no_python_model",
            where=Where(path, None if model is None else model.lineno),
        )
