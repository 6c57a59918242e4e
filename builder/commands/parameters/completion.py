"""What was typed so far of a command → the words that a shell offers for a value: models, rules, runs, arms.

A shell waits for it at each press of a key: files are read here as text, and none of the modules that understand them is
imported. What cannot be read offers nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

_MOST_BYTES = 1 << 20
"""Read of a run: its arms stand before its trials."""
_ARM = re.compile(r'"id":\s*"([\w.-]+)",\s*"label":\s*("(?:[^"\\]|\\.)*")')
_RULE = re.compile(r'@rule\(\s*"([A-Z]+[0-9]+)"')
_RULES = Path(__file__).parents[2] / "lint" / "rules"
_RUN_FILES = ("run.json", "run.jsonl")
# Parameters that may hold a directory with models in it, the nearest to the command's purpose first.
_REPOSITORIES = ("destination", "target", "where", "repository")


@dataclass(frozen=True, slots=True)
class Offer:
    """A word, and what some shells show beside it; typer asks for these fields."""

    value: str
    help: str | None = None
    type: str = "plain"


def completed(parameters: list[Any]) -> list[Any]:
    """The same parameters; those whose metavar is one of OFFERS offer its words."""
    for parameter in parameters:
        offers = OFFERS.get(parameter.metavar)
        if offers is not None:
            parameter.shell_complete = partial(_offered, offers)
    return parameters


def _offered(offers: Callable[[Any, str], Iterable[Offer]], ctx: Any, typed: str) -> list[Offer]:
    try:
        return [offer for offer in offers(ctx, typed) if offer.value.startswith(typed)]
    except Exception:  # whatever it is, it would be written over the line that the user types
        return []


def models(ctx: Any, typed: str) -> Iterator[Offer]:
    """Those of the first directory among the arguments that has some, else those of the spec."""
    for name in _REPOSITORIES:
        names = list(_models_in(ctx.params.get(name)))
        if names:
            yield from map(Offer, sorted(names))
            return
    yield from map(Offer, _models_of_spec(Path(ctx.params.get("spec") or "models.yaml")))


def _models_in(place: Any) -> Iterator[str]:
    if isinstance(place, (str, Path)) and "://" not in str(place) and Path(place).is_dir():
        for directory in Path(place).iterdir():
            inside = directory.is_dir() and [entry.name for entry in directory.iterdir()]
            if inside and ("config.pbtxt" in inside or any(name.isdecimal() for name in inside)):
                yield directory.name


def _models_of_spec(path: Path) -> Iterator[str]:
    import yaml

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    root: Any = yaml.compose(path.read_text(encoding="utf-8"), loader)  # nothing is made of it but its keys
    found = next(value for key, value in root.value if key.value == "models")
    yield from (key.value for key, _ in found.value)


def rules(ctx: Any, typed: str) -> Iterator[Offer]:
    """Ids of our own lint rules, and their families; after a comma the next of a list."""
    before, comma, last = typed.rpartition(",")
    ids = {
        found
        for file in _RULES.rglob("*.py")
        for found in _RULE.findall(file.read_text(encoding="utf-8"))
        if found.startswith(last.upper())
    }
    families = {found.rstrip("0123456789") for found in ids}
    yield from (Offer(before + comma + word) for word in [*sorted(families), *sorted(ids)])


def arms(ctx: Any, typed: str) -> Iterator[Offer]:
    """Ids of the configs that a run measured, with their labels."""
    run = Path(ctx.params.get("run") or ctx.params["a"])
    file = next(run / name for name in _RUN_FILES if (run / name).is_file())
    with file.open(encoding="utf-8") as text:
        for arm, label in dict(_ARM.findall(text.read(_MOST_BYTES))).items():
            yield Offer(arm, json.loads(label))


def run_directories(ctx: Any, typed: str) -> Iterator[Offer]:
    """Directories that a sweep wrote, in the directory that is typed or in this one."""
    parent = typed.rpartition("/")[0] + "/" if "/" in typed else ""
    for directory in sorted(Path(parent or ".").iterdir()):
        if any((directory / name).is_file() for name in _RUN_FILES):
            yield Offer(parent + directory.name)


def runs(ctx: Any, typed: str) -> Iterator[Offer]:
    """Run directories, and record files of load tests."""
    parent = typed.rpartition("/")[0] + "/" if "/" in typed else ""
    yield from run_directories(ctx, typed)
    yield from (Offer(parent + file.name) for file in sorted(Path(parent or ".").glob("*.npz")))


def commands(ctx: Any, typed: str) -> Iterator[Offer]:
    """Those of the command line, or of the command among them that is typed already."""
    group = ctx.find_root().command
    for name in ctx.params.get("command") or ():
        group = group.commands[name]
    yield from map(Offer, group.commands)


OFFERS: Mapping[str | None, Callable[[Any, str], Iterable[Offer]]] = {
    "COMMAND": commands,
    "MODEL": models,
    "RULE": rules,
    "RULE,RULE": rules,
    "ARM": arms,
    "RUN_DIR": run_directories,
    "RUN": runs,
    "RUN_A": runs,
    "RUN_B": runs,
}
"""By the metavar, so that the same word is completed in the same way everywhere."""
