"""A directory without a models.yaml → the `tritonsmith init` that fits what lies in it; programs are parsed, never run."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

DEFAULT_NAME = "models.yaml"
_LOOKED_AT = 200
_MOST_BYTES = 1 << 20
_USUAL = (
    "load",
    "load_model",
    "get_model",
    "model",
    "build",
    "build_model",
    "make",
    "make_model",
    "create_model",
)
_EXAMPLE = "detector.onnx (or another model's file or directory, MODULE:CALLABLE, a live Triton's URL)"
_MODEL = "TritonPythonModel"


def init_command(spec: Path) -> str:
    """`tritonsmith init detector.onnx`, named by what lies where the spec is to be; a general example where nothing does."""
    output = "" if spec == Path(DEFAULT_NAME) else f" --output {shlex.quote(str(spec))}"
    return f"tritonsmith init {origin_in(spec.parent) or _EXAMPLE}{output}"


def origin_in(directory: Path) -> str | None:
    """What of a directory `init` may be given; None where nothing is known."""
    try:
        entries = sorted(islice(directory.iterdir(), _LOOKED_AT), key=lambda path: path.name)
    except OSError:
        return None
    files = [path for path in entries if path.is_file()]
    # Suffixes that other things have, too, say little.
    for suffix in (".onnx", ".gguf", ".pt2", ".skops", ".ubj", ".pt"):
        if found := [path for path in files if path.suffix == suffix]:
            return shlex.join(str(path) for path in found[:3])
    programs = [path for path in files if path.suffix == ".py" and path.stem.isidentifier()]
    for path in programs:
        if has_python_model(path):
            return shlex.quote(str(path))
    for path in programs:
        if names := loaders_in(path):
            return f"{path.stem}:{names[0]}"
    for path in entries:
        if (path / "config.json").is_file() or any(path.glob("*/config.pbtxt")) or any(path.glob("*.onnx")):
            return shlex.quote(str(path))
    return None


def has_python_model(path: Path) -> bool:
    """Whether the file defines a TritonPythonModel with a method execute."""
    return any(
        isinstance(node, ast.ClassDef)
        and node.name == _MODEL
        and any(
            isinstance(m, ast.FunctionDef | ast.AsyncFunctionDef) and m.name == "execute" for m in node.body
        )
        for node in _top(path)
    )


def loaders_in(path: Path) -> list[str]:
    """Functions of a file that uses torch which may be a torch source: they need no argument and return a pair or a module;
    those with usual names first."""
    nodes = list(_top(path))
    if not any(_imports_torch(node) for node in nodes):
        return []
    modules = {n.name for n in nodes if isinstance(n, ast.ClassDef) and any(_is_module(b) for b in n.bases)}
    found = [
        node.name
        for node in nodes
        if isinstance(node, ast.FunctionDef) and _needs_nothing(node.args) and _returns(node, modules)
    ]
    return sorted(found, key=lambda name: (name not in _USUAL, name.startswith("_")))


def _top(path: Path) -> Iterator[ast.stmt]:
    try:
        if path.stat().st_size > _MOST_BYTES:
            return
        yield from ast.parse(path.read_bytes(), str(path)).body
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return


def _imports_torch(node: ast.stmt) -> bool:
    if isinstance(node, ast.Import):
        return any(re.match(r"(torch|torchvision|timm|transformers)\b", alias.name) for alias in node.names)
    return isinstance(node, ast.ImportFrom) and bool(
        re.match(r"(torch|torchvision|timm|transformers)\b", node.module or "")
    )


def _is_module(base: ast.expr) -> bool:
    return ast.unparse(base).rpartition(".")[2] == "Module"


def _needs_nothing(arguments: ast.arguments) -> bool:
    positional = [*arguments.posonlyargs, *arguments.args]
    return len(positional) == len(arguments.defaults) and None not in arguments.kw_defaults


def _returns(function: ast.FunctionDef, modules: set[str]) -> bool:
    """A pair, or a call of a module's class of the file, as far as the return statements say."""
    made = {
        target.id
        for node in ast.walk(function)
        if isinstance(node, ast.Assign) and _makes(node.value, modules)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    values = [node.value for node in ast.walk(function) if isinstance(node, ast.Return)]
    return any(
        (isinstance(value, ast.Tuple) and len(value.elts) == 2)
        or (value is not None and _makes(value, modules))
        or (isinstance(value, ast.Name) and value.id in made)
        for value in values
    )


def _makes(value: ast.expr, modules: set[str]) -> bool:
    """`Net()`, `Net().eval()`."""
    while isinstance(value, ast.Call):
        if isinstance(value.func, ast.Name):
            return value.func.id in modules
        if not isinstance(value.func, ast.Attribute):
            return False
        value = value.func.value
    return False
