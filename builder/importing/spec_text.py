"""Imported models → the text of models.yaml: what all models share stands under `defaults:`, short values on one line."""

from __future__ import annotations

import math
import re
import tempfile
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tritonsmith.builder.base.errors import SpecError, UsageError
from tritonsmith.builder.base.odd_names import encoded_in_paths, stub_words
from tritonsmith.builder.importing.imported import Imported, ImportedModel, Note
from tritonsmith.builder.spec.model_spec import NOT_FOR_ENSEMBLES
from tritonsmith.builder.spec.refusals import folded_name
from tritonsmith.builder.spec.spec import load_spec

_WIDTH = 100
# These say what one model is; two models that have them alike have so by chance.
_NEVER_SHARED = frozenset(
    ("input", "output", "batch_input", "batch_output", "ensemble_scheduling", "model_warmup", "metric_tags")
)
# Read first in a model: the rest follows in the proto's order.
_FIRST = ("platform", "backend", "max_batch_size")


def text_of_spec(
    models: Sequence[ImportedModel],
    heading: Sequence[str] = (),
    below: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """models.yaml; SpecError when a model cannot be stated in one, a wrong name for example.

    heading: comment lines at the top; below: a model's name → comment lines at the end of its entry.
    """
    shared = _shared(models)
    lines = [f"# {_printable(line)}".rstrip() for line in heading]
    if shared:
        lines += list(_block("defaults", shared, 0))
    lines.append("models:")
    for model in models:
        lines += [f"  # {line}" for remark in model.remarks for line in _wrapped(_printable(remark))]
        own: dict[str, Any] = {"source": dict(model.source)}
        rest = {k: v for k, v in model.fields.items() if k not in shared}
        own |= {k: rest[k] for k in _FIRST if k in rest} | rest
        if model.model_files:
            own["model_files"] = dict(model.model_files)
        lines.append(f"  {_scalar(model.name)}:")
        for key, value in own.items():
            lines += _block(key, value, 2)
        lines += [f"    # {_printable(line)}" for line in (below or {}).get(model.name, ())]
    text = "\n".join(lines) + "\n"
    _check(text, models)
    return text


def without_refused(imported: Imported) -> Imported:
    """The models that a spec can state, and a note for each other one; UsageError when none is left."""
    kept: dict[str, ImportedModel] = {}
    notes = list(imported.notes)
    for model in imported.models:
        twin = kept.get(folded_name(model.name))
        try:
            if twin is not None:
                raise SpecError(f"{twin.name!r} is the same name on some disks", code="duplicate_name")
            text_of_spec((model,))
            kept[folded_name(model.name)] = model
            notes += _odd_names(model)
        except SpecError as error:
            notes.append(Note(f"{model.name!r} is not in the spec: {error.message}"))
    if not kept:
        raise UsageError("no model can be stated in a spec", code="no_models", details=map(str, notes))
    return Imported(tuple(kept.values()), tuple(notes), imported.failures)


def _odd_names(model: ImportedModel) -> Iterator[Note]:
    """What a server and its clients will make of the names that the spec takes over."""
    if "python" in (model.fields.get("backend"), *model.source):
        groups = [str(group.get("name", "")) for group in model.fields.get("instance_group", ())]
        words = (model.name, str(model.fields.get("default_model_filename", "")), groups)
        for what, _, _, bad in stub_words(*words):
            yield Note(f"{model.name!r}: {what} has {bad!r} in it, and build will refuse it (rule BACK008)")
    if (encoded := encoded_in_paths(model.name)) is not None:
        yield Note(
            f"{model.name!r} has {encoded!r} in it, and HTTP clients that encode it will not find the model (rule REPO015)"
        )


def _shared(models: Sequence[ImportedModel]) -> dict[str, Any]:
    if len(models) < 2:
        return {}
    # An ensemble of steps inherits less than others do: models that stand together must state it.
    apart = NOT_FOR_ENSEMBLES if any("steps" in m.source for m in models) else frozenset()
    first = models[0].fields
    return {
        key: value
        for key, value in first.items()
        if key not in _NEVER_SHARED | apart
        and all(key in m.fields and _alike(m.fields[key], value) for m in models[1:])
    }


def _alike(left: Any, right: Any) -> bool:
    """Equal, and of the same types: 1 is not true."""
    return repr(left) == repr(right)


def _check(text: str, models: Sequence[ImportedModel]) -> None:
    """SpecError when the text is no spec, or YAML reads other names out of it than were meant."""
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".yaml") as file:
        file.write(text)
        file.flush()
        try:
            read = load_spec(Path(file.name)).source.data["models"]
            for model in models:
                there = read.get(model.name, {})
                if there.get("source") != model.source or there.get("model_files", {}) != model.model_files:
                    raise SpecError(f"YAML cannot hold the names of {model.name!r}", code="cannot_state")
        except SpecError as error:
            raise SpecError(
                error.message, code=error.code, seen=error.seen, valid=error.valid, fix=error.fix
            ) from None


def _block(key: str, value: Any, depth: int) -> Iterator[str]:
    """`key: value` on one line where it fits, else one line an item."""
    lead = f"{'  ' * depth}{_scalar(key)}:"
    yield from _after(lead, value, depth)


def _after(lead: str, value: Any, depth: int) -> Iterator[str]:
    flat = _flow(value)
    if len(lead) + 1 + len(flat) <= _WIDTH or not isinstance(value, dict | list) or not value:
        yield f"{lead} {flat}"
        return
    yield lead
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _block(key, item, depth + 1)
        return
    for item in value:
        yield from _item(item, depth + 1)


def _item(value: Any, depth: int) -> Iterator[str]:
    pad = "  " * depth
    flat = _flow(value)
    if len(pad) + 2 + len(flat) <= _WIDTH or not isinstance(value, dict) or not value:
        yield f"{pad}- {flat}"
        return
    lines = [line for key, item in value.items() for line in _block(key, item, depth + 1)]
    yield f"{pad}- {lines[0].lstrip()}"
    yield from lines[1:]


def _flow(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_scalar(k)}: {_flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_flow(v) for v in value) + "]"
    return _scalar(value)


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        return value if _plain(value) else _quoted(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    if isinstance(value, float):
        text = repr(value)
        # YAML 1.1 takes 1e-05 for a word: a number has a point.
        return text if "." in text else text.replace("e", ".0e")
    return str(value)


def _plain(text: str) -> bool:
    """Whether YAML reads the bare text back as this very text."""
    if re.fullmatch(r"[A-Za-z_/.][\w./+-]*", text, re.ASCII) is None:
        return False
    loader: Any = yaml.SafeLoader("")
    return bool(loader.resolve(yaml.ScalarNode, text, (True, False)) == "tag:yaml.org,2002:str")


def _quoted(text: str) -> str:
    return str(yaml.safe_dump(text, default_style='"', allow_unicode=True, width=math.inf)).strip()


def _wrapped(text: str) -> list[str]:
    """Of a comment; what is indented is a command, and stays on one line."""
    return [text] if text.startswith(" ") else textwrap.wrap(text, _WIDTH, break_long_words=False) or [""]


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)
