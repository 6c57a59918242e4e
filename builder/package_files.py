"""package:NAME/path ↔ a file inside an installed package, found without importing the package."""

from __future__ import annotations

import importlib.util
import sys
from functools import lru_cache
from pathlib import Path, PurePosixPath

from builder.errors import SpecError

PACKAGE_PREFIX = "package:"


def resolve_package_file(reference: str) -> Path:
    """`package:rapidocr_onnxruntime/models/x.onnx` → its path; SpecError when the package or the file is missing."""
    inside = PurePosixPath(reference.removeprefix(PACKAGE_PREFIX))
    if len(inside.parts) < 2 or inside.is_absolute() or ".." in inside.parts:
        raise SpecError(
            f"{reference!r} is not package:NAME/path",
            code="package_reference",
            valid=("package:NAME/dir/file.onnx",),
        )
    package = inside.parts[0]
    roots = _package_roots(package)
    if not roots:
        raise SpecError(
            f"{reference!r} names the package {package!r}, which is not installed",
            code="package_missing",
            fix=f"pip install {package.replace('_', '-')}",
        )
    relative = PurePosixPath(*inside.parts[1:])
    for root in roots:
        if (root / relative).is_file():
            return root / relative
    raise SpecError(
        f"the installed package {package!r} has no file {relative}",
        code="package_file_missing",
        seen=reference,
        valid=sorted({p.name for r in roots for p in (r / relative.parent).glob("*") if p.is_file()})[:10],
    )


def package_reference(path: Path) -> str | None:
    """The inverse: a file below a site-packages directory → package:NAME/path; None for any other."""
    for entry in _site_directories():
        if path.is_relative_to(entry):
            inside = path.relative_to(entry)
            return f"{PACKAGE_PREFIX}{inside.as_posix()}" if len(inside.parts) > 1 else None
    return None


@lru_cache(maxsize=256)
def _package_roots(package: str) -> tuple[Path, ...]:
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return ()
    return () if spec is None else tuple(Path(p) for p in spec.submodule_search_locations or ())


@lru_cache(maxsize=1)
def _site_directories() -> tuple[Path, ...]:
    found = (Path(p).absolute() for p in sys.path if p)
    return tuple(p for p in found if p.name in ("site-packages", "dist-packages"))
