"""package:NAME/path ↔ a file inside an installed package, found without importing the package."""

from __future__ import annotations

import importlib.util
import sys
from functools import lru_cache
from pathlib import Path, PurePosixPath

from tritonsmith.builder.base.errors import SpecError, nearest
from tritonsmith.builder.base.files.disk import files_below

PACKAGE_PREFIX = "package:"


def resolve_package_file(reference: str) -> Path:
    """`package:rapidocr_onnxruntime/models/det.onnx` → its path; NAME is the import name, no code of it is run.

    SpecError: package_reference (no path, or one that leaves the package), package_not_installed,
    package_file_missing.
    """
    name, _, relative = reference.removeprefix(PACKAGE_PREFIX).partition("/")
    parts = PurePosixPath(relative).parts
    if not name.isidentifier() or not parts or relative.startswith("/") or ".." in parts or "\\" in relative:
        raise SpecError(
            f"{reference!r} is no file in an installed package",
            code="package_reference",
            valid=("package:IMPORT_NAME/path/inside/the/package",),
        )
    roots = _package_roots(name)
    if not roots:
        raise SpecError(
            f"package {name} is not installed",
            code="package_not_installed",
            seen=reference,
            fix=f"pip install {name.replace('_', '-')}   (add --no-deps when only its files are wanted)",
        )
    for root in roots:
        if root.joinpath(*parts).is_file():
            return root.joinpath(*parts)
    raise SpecError(
        f"package {name} ships no file {relative}",
        code="package_file_missing",
        seen=reference,
        valid=_suggestions(roots[0], relative),
    )


def _suggestions(directory: Path, wanted: str) -> list[str]:
    suffix = PurePosixPath(wanted).suffix
    if not suffix:
        return []
    present = [p.relative_to(directory).as_posix() for p in files_below(directory, f"*{suffix}")]
    close = nearest(wanted, present)
    return [close] if close else present[:8]


def package_reference(path: Path) -> str | None:
    """The inverse: a file below a site-packages directory → package:NAME/path; None for any other."""
    for entry in _site_directories():
        if path.is_relative_to(entry):
            inside = path.relative_to(entry)
            return f"{PACKAGE_PREFIX}{inside.as_posix()}" if len(inside.parts) > 1 else None
    return None


def source_path(name: str, root: Path) -> Path:
    """A file as the spec or a lock names it → its path; SpecError for a package that is not installed."""
    return resolve_package_file(name) if name.startswith(PACKAGE_PREFIX) else root / name


def portable_name(path: Path, root: Path) -> str:
    """The inverse: relative to the spec when below it, package:NAME/path when in an installed package, else absolute."""
    absolute = path.absolute()
    if absolute.is_relative_to(root):
        return absolute.relative_to(root).as_posix()
    return package_reference(absolute) or str(absolute)


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
