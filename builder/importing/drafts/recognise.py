"""A file → the kind of source that it is, by its name and its first bytes; nothing in it is run."""

from __future__ import annotations

import zipfile
from pathlib import Path

from tritonsmith.builder.base.errors import SpecError, TritonsmithError, UsageError, Where
from tritonsmith.builder.base.sources import source_rows
from tritonsmith.builder.llm.weights import read_weights
from tritonsmith.builder.spec.nearby import has_python_model, loaders_in

_HEAD_BYTES = 1 << 16


def kind_of_file(path: Path) -> str:
    """A kind of the table. UsageError or SpecError for a file of which no source can be made, with what to do instead."""
    kinds = _kinds(path)
    if not kinds:
        raise _unknown(path)
    kind = kinds[0]
    if kind in ("torchscript", "exported_program"):
        return _kind_of_torch_file(path)
    if kind == "xgboost" and b"learner" not in _head(path):
        raise _not(path, "an XGBoost model", "Booster.save_model writes it, with `learner` in it")
    if kind == "lightgbm" and not _head(path).startswith(b"tree"):
        raise _not(path, "a LightGBM model", "Booster.save_model writes it, and its first line is `tree`")
    if kind == "llm":
        read_weights(path)
    if kind == "python" and not has_python_model(path):
        raise _no_python_model(path)
    return kind


def might_be_model(path: Path) -> bool:
    """Whether a file of a directory is looked at as a model: those of names that other things have, too, by their content."""
    kinds = _kinds(path)
    if not kinds:
        return False
    if kinds[0] not in ("xgboost", "lightgbm", "python", "llm"):
        return True
    try:
        return bool(kind_of_file(path))
    except (TritonsmithError, OSError):
        return False


def suffixes() -> tuple[str, ...]:
    """Ends of the names of files that are known."""
    return tuple(dict.fromkeys(suffix for row in source_rows().values() for suffix in row.suffixes))


def _kinds(path: Path) -> list[str]:
    return [kind for kind, row in source_rows().items() if path.name.lower().endswith(row.suffixes)]


def _kind_of_torch_file(path: Path) -> str:
    """What torch wrote: programs and checkpoints share their suffixes, but not what lies in the archive."""
    names = _names_in_zip(path)
    if any(name.endswith("constants.pkl") for name in names) and any("/code/" in name for name in names):
        return "torchscript"
    if path.suffix == ".pt2" or any(name.split("/")[1:2] == ["models"] for name in names):
        return "exported_program"
    if any(name.endswith(".so") for name in names):
        raise _not(path, "a program that can be exported", "torch.export.save writes one (.pt2)")
    raise UsageError(
        "it holds weights or a pickle (torch.save), and no program: nothing says how to run it",
        code="checkpoint",
        where=Where(path),
        details=(
            "write a module beside models.yaml, say net.py:",
            "    def load():",
            "        module = Net()                        # your class",
            f"        module.load_state_dict(torch.load({path.name!r}, weights_only=True))",
            "        return module, (torch.zeros(1, 3),)   # an example of its inputs",
        ),
        valid=("module:callable", "a file of torch.jit.save (.pt)", "a file of torch.export.save (.pt2)"),
        fix="tritonsmith init net:load",
    )


def _names_in_zip(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return []


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD_BYTES)


def _not(path: Path, what: str, fix: str) -> SpecError:
    return SpecError(f"it is not {what}", code="not_a_model", where=Where(path), fix=fix)


def _no_python_model(path: Path) -> UsageError:
    loaders = loaders_in(path)
    return UsageError(
        "the file has no class TritonPythonModel with a method execute",
        code="no_python_model",
        where=Where(path),
        valid=[f"{path}:{name}" for name in loaders],
        fix=f"tritonsmith init {path}:{loaders[0]}"
        if loaders
        else f"of a torch module: tritonsmith init {path}:FUNCTION, which returns (module, example inputs)",
    )


def _unknown(path: Path) -> SpecError:
    known = (
        *(f"*{suffix}" for suffix in suffixes()),
        "module:callable",
        "a Hugging Face directory",
        "ORGANISATION/NAME@COMMIT of its hub",
        "a model repository or directory",
        "a URL",
    )
    fix = None
    if path.suffix in (".safetensors", ".bin"):
        fix = f"of a Hugging Face model, its directory: tritonsmith init {path.parent}"
    elif path.suffix in (".engine", ".plan"):
        fix = "a TensorRT engine is taken over in its model's directory: tritonsmith init MODEL_DIRECTORY"
    return SpecError(
        f"no source is known of a file {path.suffix or 'without a suffix'}",
        code="unknown_file",
        where=Where(path),
        seen=path.name,
        valid=known,
        fix=fix,
    )
