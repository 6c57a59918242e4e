"""`module:callable`, or a Python file and a callable → a reference and the name of its model."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

from tritonsmith.builder.base.errors import UsageError, Where

_VERB = re.compile(r"^(load|get|make|build|create|export)(_|$)")
_SAYS_NOTHING = ("", "model", "module", "net", "network", "main", "example", "it")


def name_of_callable(reference: str) -> str:
    """`nets:load_small` is called small, `minilm:load` minilm."""
    module, _, path = reference.partition(":")
    own = _VERB.sub("", path.rpartition(".")[2])
    return module.rpartition(".")[2] if own.lower() in _SAYS_NOTHING else own


def module_from_file(path: Path, name: str, root: Path) -> str:
    """`nets/small.py` → `nets.small`, as it is imported from the spec's directory; UsageError when it cannot be."""
    if not path.is_file():
        raise UsageError(f"there is no {path}", code="no_such_path", where=Where(path), seen=f"{path}:{name}")
    parts = Path(os.path.relpath(path.resolve(), root.resolve())).with_suffix("").parts
    if all(part.isidentifier() for part in parts):
        return ".".join(parts)
    beside = path.parent / "models.yaml"
    raise UsageError(
        f"{path} cannot be imported from {root.resolve()}, where the spec is to be",
        code="not_importable",
        where=Where(path),
        seen=os.path.relpath(path.resolve(), root.resolve()),
        valid=("a file below that directory, all names on the way Python identifiers",),
        fix=f"tritonsmith init {shlex.quote(f'{path}:{name}')} --output {shlex.quote(str(beside))}"
        if path.stem.isidentifier()
        else "rename it",
    )
