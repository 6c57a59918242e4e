"""Sdists, wheels or source directories of an engine's versions → its table of arguments (tables/vllm.csv, …).

    python -m tritonsmith.builder.llm.generate vllm DIRECTORY/vllm-*.tar.gz
    python -m tritonsmith.builder.llm.generate tensorrtllm DIRECTORY/tensorrt_llm-VERSION …

An archive is read, never unpacked or imported. TensorRT-LLM has no sdist with its code: of its repository, a directory
named for the version has tests/unittest/api_stability, which lists the arguments. A table holds all versions that it is
made from, in the order they are given: give them all each time. Which Triton release has which version is
tables/releases.csv, by hand.
"""

from __future__ import annotations

import csv
import json
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tritonsmith.builder.llm.arguments import TABLES, Backend
from tritonsmith.builder.llm.read_fields import Field, Sources, listed_fields

# What of a package is read, and the class whose fields are vLLM's arguments.
_READ: Mapping[Backend, tuple[str, ...]] = {
    "vllm": (
        "vllm/engine/arg_utils.py",
        "vllm/config",
        "vllm/model_executor/layers/quantization/__init__.py",
    ),
    "tensorrtllm": (
        "tests/unittest/api_stability/references",
        "tests/unittest/api_stability/references_committed",
    ),
}
_CLASS = "AsyncEngineArgs"
_NESTED = "SpeculativeConfig"
"""Whose fields of the same names are inside one argument."""
_SUFFIXES = (".py", ".yaml")


def main(backend: Backend, paths: Sequence[Path]) -> None:
    """Write the tables of one backend anew."""
    versions = {_version(path): path for path in paths}
    tables = {version: _fields(backend, path) for version, path in versions.items()}
    _write(TABLES / f"{backend}.csv", _rows(tables))
    if backend == "vllm":
        _write(TABLES / "bounds.csv", _bounds(versions, tables))
    with (TABLES / "versions.csv").open(newline="", encoding="utf-8") as file:
        others = [row for row in csv.DictReader(file) if row["backend"] != backend]
    sources = [
        {"backend": backend, "version": version, "source": _source(backend, path)}
        for version, path in versions.items()
    ]
    _write(TABLES / "versions.csv", sorted([*others, *sources], key=lambda row: row["backend"], reverse=True))


def _fields(backend: Backend, path: Path) -> dict[str, Field]:
    texts = [text for name, text in _texts(path) if _is_read(name, _READ[backend])]
    if backend == "vllm":
        return Sources(texts).fields(_CLASS)
    return {name: field for text in texts for name, field in listed_fields(yaml.safe_load(text)).items()}


def _bounds(versions: Mapping[str, Path], tables: Mapping[str, Mapping[str, Field]]) -> list[dict[str, str]]:
    """What numbers an argument takes, as the newest version says that bounds it: earlier ones do not say, or the same."""
    found: dict[str, dict[str, str]] = {}
    for version, path in reversed(list(versions.items())):
        texts = [text for name, text in _texts(path) if _is_read(name, _READ["vllm"])]
        for name, bounds in Sources(texts).bounds(besides=_NESTED).items():
            if name in tables[version]:
                found.setdefault(
                    name, {"name": name, "bounds": bounds, "source": f"{path.name}: vllm/config"}
                )
    return [found[name] for name in sorted(found)]


def _rows(tables: Mapping[str, Mapping[str, Field]]) -> list[dict[str, str]]:
    """One row for each run of versions in which an argument is the same."""
    rows: list[dict[str, str]] = []
    for name in sorted({name for fields in tables.values() for name in fields}):
        before: Field | None = None
        for version, fields in tables.items():
            field = fields.get(name)
            if field is not None and field == before:
                rows[-1]["last"] = version
            elif field is not None:
                rows.append({"name": name, **_cells(field), "first": version, "last": version})
            before = field
    return rows


def _cells(field: Field) -> dict[str, str]:
    types = [*field.types, "null"] if field.nullable else field.types
    choices = json.dumps(field.choices, separators=(",", ":")) if field.choices else ""
    return {"types": "|".join(types), "default": field.default, "choices": choices}


def _source(backend: Backend, path: Path) -> str:
    """Where a directory came from stands in a file SOURCE in it."""
    note = path / "SOURCE"
    return note.read_text("utf-8").strip() if note.is_file() else f"{path.name}: {_READ[backend][0]}"


def _version(path: Path) -> str:
    return path.name.removesuffix(".tar.gz").split("-", 2)[1]


def _is_read(name: str, parts: Sequence[str]) -> bool:
    return name.endswith(_SUFFIXES) and any(
        name == part or name == f"{part}.py" or name.startswith(f"{part}/") for part in parts
    )


def _texts(path: Path) -> Iterator[tuple[str, str]]:
    """(path inside the package's root, text) of each file that may be read."""
    if path.is_dir():
        for file in sorted(file for file in path.rglob("*") if file.suffix in _SUFFIXES):
            yield file.relative_to(path).as_posix(), file.read_text(encoding="utf-8")
    elif path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            for name in sorted(wheel.namelist()):
                if name.endswith(_SUFFIXES):
                    yield name, wheel.read(name).decode()
    else:
        with tarfile.open(path) as archive:
            for member in archive:
                content = archive.extractfile(member) if member.name.endswith(_SUFFIXES) else None
                if content is not None:
                    yield member.name.partition("/")[2], content.read().decode()


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    _, _backend, *_paths = sys.argv
    assert _backend in ("vllm", "tensorrtllm"), _backend
    main("vllm" if _backend == "vllm" else "tensorrtllm", [Path(path) for path in _paths])
