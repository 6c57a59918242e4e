"""Two runs → what they do not have in common of what makes a measurement the same: model, data, load, server, machine; pure.

What a change is made to be measured by (the model's config and backend, our own version) is a note. When it began and
how busy the machine was are neither.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from tritonsmith.builder.base.errors import shortened
from tritonsmith.builder.base.text.shown import one_line, without_secrets
from tritonsmith.perf.records.record import RequestRecords
from tritonsmith.perf.records.schedule import Load, Open, load_as_dict, load_from_dict, load_label
from tritonsmith.perf.sweep.run_record import RunResult


@dataclass(frozen=True, slots=True)
class Difference:
    """name: `server version`; a, b: both values, as they are shown."""

    name: str
    a: str
    b: str

    @property
    def text(self) -> str:
        """`server version 2.51.0 in A, 2.52.0 in B`."""
        return f"{self.name} {self.a} in A, {self.b} in B"


def not_comparable(differences: Sequence[Difference]) -> str:
    """The headline of a comparison that is none."""
    return f"Not comparable: {'; '.join(each.text for each in differences)}."


_MOST_SHOWN = 100
_SERVER = {"server": "server", "server_version": "server version"}
_MACHINE = {"cpu": "processor", "cores": "processor cores", "cpus": "processor cores"}
_NOTED = {"platform": "system", "system": "system", "backend": "backend", "tritonsmith": "tritonsmith"}


def differences_of_records(a: RequestRecords, b: RequestRecords) -> tuple[Difference, ...]:
    """Of two load tests."""
    one, other = a.header, b.header
    here, there = one.environment, other.environment
    seen = [
        Difference("model", one.model, other.model),
        Difference("load", *_load_texts(a, b)),
        Difference("protocol", _protocol(a), _protocol(b)),
        *_data(here, there, one.seed, other.seed),
        *_known(here, there, _SERVER),
        Difference("host", _host(one.url), _host(other.url)),
        *_known(here, there, _MACHINE),
    ]
    if "cpu" not in here or "cpu" not in there:  # an earlier version noted the system alone
        seen += _known(here, there, {"platform": "system"})
    return _unlike(seen)


def differences_of_runs(a: RunResult, b: RunResult) -> tuple[Difference, ...]:
    """Of two sweeps."""
    here, there = a.environment, b.environment
    seen = [
        Difference("model", a.spec.model, b.spec.model),
        Difference("model under load", a.spec.target, b.spec.target),
        Difference("load", *_load_points(a, b)),
        Difference("batch size", str(a.spec.batch_size), str(b.spec.batch_size)),
        Difference("models beside it", _beside(a), _beside(b)),
        *_known(here, there, {"protocol": "protocol"}),
        *_data(here, there, a.spec.seed, b.spec.seed),
        *_known(here, there, {**_SERVER, **_MACHINE}),
    ]
    if a.spec.model != b.spec.model and a.spec.load_model == b.spec.load_model:
        seen = [each for each in seen if each.name != "model under load"]
    return _unlike(seen)


def _unlike(seen: Sequence[Difference]) -> tuple[Difference, ...]:
    """Those that differ, each a short line: runs may be of anyone."""

    def shown(text: str) -> str:
        return one_line(without_secrets(shortened(text, _MOST_SHOWN)))

    return tuple(Difference(each.name, shown(each.a), shown(each.b)) for each in seen if each.a != each.b)


def _known(here: Mapping[str, Any], there: Mapping[str, Any], names: Mapping[str, str]) -> list[Difference]:
    """What both know; what one of them does not is a note."""
    return [
        Difference(name, str(here[key]), str(there[key]))
        for key, name in names.items()
        if here.get(key) not in (None, "") and there.get(key) not in (None, "")
    ]


def _data(here: Mapping[str, Any], there: Mapping[str, Any], *seeds: int) -> list[Difference]:
    """The digests of what was sent; where one of them is not known, the seeds that data are drawn by."""
    digests = [str(each["data"])[:12] for each in (here, there) if each.get("data")]
    if len(digests) == 2:
        return [Difference("data (sha256)", *digests)]
    return [Difference("data (seed)", *map(str, seeds))]


# Loads.


def load_of_records(records: RequestRecords) -> str:
    """`concurrency 8, batch size 4`."""
    header = records.header
    batch = "/".join(str(size) for size in sorted(set(header.batch_sizes)))
    text = load_label(load_from_dict(header.load))
    return text if batch == "1" else f"{text}, batch size {batch}"


def load_of_run(run: RunResult, point: int) -> str:
    """`concurrency 8`, or the limit that the rate keeps."""
    return run.spec.where_words(point).removeprefix("at ")


def _load_texts(a: RequestRecords, b: RequestRecords) -> tuple[str, str]:
    """Two texts that are equal exactly when the loads have one shape: the seed of arrivals is none of it."""
    texts = load_of_records(a), load_of_records(b)
    loads = [_without_seed(load_from_dict(records.header.load)) for records in (a, b)]
    if loads[0] == loads[1] or texts[0] != texts[1]:
        return texts
    one, other = (load_as_dict(load) for load in loads)
    unlike = [key for key in {**one, **other} if one.get(key) != other.get(key)]
    shown = [", ".join(f"{key} {load.get(key)}" for key in unlike) for load in (one, other)]
    return shown[0], shown[1]


def _without_seed(load: Load) -> Load:
    return replace(load, seed=0) if isinstance(load, Open) else load


def _protocol(records: RequestRecords) -> str:
    return f"{records.header.protocol}{'' if records.responses is None else ' streaming'}"


def _host(url: str) -> str:
    try:
        host = urlsplit(url).hostname or url
    except ValueError:  # brackets that are no address
        host = url
    return "localhost" if host in ("127.0.0.1", "::1") else host


def _load_points(a: RunResult, b: RunResult) -> tuple[str, str]:
    """Of sweeps with a load point in common, nothing: that is where they are compared."""
    rates = [run.spec.slo_p99_ms for run in (a, b)]
    if rates[0] == rates[1] and set(a.spec.concurrency) & set(b.spec.concurrency):
        return "", ""
    first, second = (
        load_of_run(run, 0) if run.spec.slo_p99_ms is not None
        else f"concurrency {', '.join(map(str, run.spec.concurrency))}"
        for run in (a, b)
    )  # fmt: skip
    return first, second


def _beside(run: RunResult) -> str:
    return ", ".join(f"{name}:{count}" for name, count in sorted(run.spec.beside.items())) or "none"


# Notes.


def notes_on_records(a: RequestRecords, b: RequestRecords) -> Iterator[str]:
    """What else is not the same of two load tests."""
    yield from _notes(a.header.environment, b.header.environment)


def notes_on_runs(a: RunResult, b: RunResult) -> Iterator[str]:
    """What else is not the same of two sweeps."""
    yield from _notes(a.environment, b.environment)


def _notes(here: Mapping[str, Any], there: Mapping[str, Any]) -> Iterator[str]:
    for key, name in {**_SERVER, **_MACHINE, "data": "digest of the data"}.items():
        unknown = [side for side, known in (("A", here), ("B", there)) if known.get(key) in (None, "")]
        if len(unknown) == 1:
            yield f"{unknown[0]} does not know its {name}: whether it is the same cannot be told"
    for key, name in _NOTED.items():
        if here.get(key) != there.get(key):
            yield f"{name} differs: {here.get(key, '?')} in A, {there.get(key, '?')} in B"
