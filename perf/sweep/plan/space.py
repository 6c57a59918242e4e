"""A space as data (a sweep.yaml, a notebook, flags) → path → values of Triton's types, no place and no value twice; pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tritonsmith.builder.base.errors import UsageError, Where, at, nearest
from tritonsmith.builder.spec.yaml_source import KeyPath
from tritonsmith.perf.sweep.plan.config_path import Place, is_of_engine, model_and_path, place_of, segments_of
from tritonsmith.perf.sweep.plan.engine_place import check_choices, engine_place
from tritonsmith.perf.sweep.plan.field_value import CLIENT, CLIENT_BATCH, client_batch, example_of, values_of

MAX_BATCH = "max_batch_size"
_TENSOR_FIELDS = ("name", "data_type", "dims", "reshape")


def place_in_space(path: str) -> tuple[str, Place]:
    """A space's path → (the path as all its spellings are written, its place); UsageError for what is no setting."""
    model, inner = model_and_path(path)
    if not model and inner.partition(".")[0] == CLIENT:
        if inner != CLIENT_BATCH:
            raise _no_client_setting(inner)
        return CLIENT_BATCH, client_batch()
    place = engine_place(inner) if is_of_engine(inner) else place_of(inner)
    _check_may_vary(place)
    return f"{model}:{place.path}" if model else place.path, place


def _no_client_setting(path: str) -> UsageError:
    is_load = nearest(path, [CLIENT_BATCH, f"{CLIENT}.concurrency"]) == f"{CLIENT}.concurrency"
    return UsageError(
        "of the client only the batch size of its requests is a setting",
        code="unknown_field",
        seen=path,
        valid=[CLIENT_BATCH],
        fix="--concurrency 1,8,32" if is_load else CLIENT_BATCH,
    )


def _check_may_vary(place: Place) -> None:
    """UsageError for what would make other requests, or other answers, of one arm than of the next."""
    names = [name for name, _ in segments_of(place.path)]
    fix = None
    if names == ["name"]:
        why = "the model's name is what its arms are known by"
    elif names[0] == "model_transaction_policy":
        why = (
            "it changes the protocol of the requests: a decoupled model may answer each any number of times, "
            "and a request of a sweep has one answer"
        )
        fix = "measure each by itself: tritonsmith load DIR -m MODEL --protocol grpc --streaming"
    elif names[0] in ("input", "output") and (len(names) == 1 or names[1] in _TENSOR_FIELDS):
        why = "it says what the requests and answers look like, which are the same for all arms"
    else:
        return
    raise UsageError(
        f"{place.path} is no setting of a sweep: {why}", code="no_setting", seen=place.path, fix=fix
    )


def checked_space(
    space: Mapping[str, Any], model: str, where: Callable[[KeyPath], Where | None]
) -> dict[str, list[Any]]:
    """Path → values as proto JSON has them; what is checked already comes out as it is.

    model: the swept one, of which `model:path` and `path` are the same. where: a key path of the spec → its place in
    a file. UsageError for a path that is none, a value of another type, and what is there twice.
    """
    checked: dict[str, list[Any]] = {}
    for path, given in space.items():
        with at(where(("space", path))):
            name, place = place_in_space(path)
            name = name.removeprefix(f"{model}:")
            for other in checked:
                _check_apart(name, other)
            checked[name] = _values(place, path, given, where)
            check_no_value_twice(path, checked[name])
            if is_of_engine(place.path):
                check_choices(place, checked[name])
            if place.path == MAX_BATCH:
                _check_batching_stays(name, checked[name])
    return checked


def _values(place: Place, path: str, given: Any, where: Callable[[KeyPath], Where | None]) -> list[Any]:
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise UsageError(
            f"{path} needs a list of the values to try",
            code="bad_value",
            seen=given,
            fix=f"{path}: [{given or example_of(place)}]",
        )
    if not given:
        raise UsageError(f"{path} has no values", code="bad_value", fix=f"{path}: [{example_of(place)}]")
    if place.is_list and not any(item is None or isinstance(item, list | tuple) for item in given):
        items = ", ".join(map(str, given))
        each = ", ".join(f"[{item}]" for item in given)
        raise UsageError(
            f"{path} is a list, so each value to try is a list itself",
            code="bad_value",
            seen=f"[{items}]",
            valid=[f"[{each}] ({len(given)} arms)", f"[[{items}]] (one arm)"],
        )
    values = []
    for position, item in enumerate(given):
        with at(where(("space", path, position))):
            try:
                values += values_of(place, item)
            except UsageError as error:
                error.fix = None if error.fix is None else f"{error.fix} in place of {error.seen}"
                raise
    return values


def check_no_value_twice(path: str, values: Sequence[Any]) -> None:
    """UsageError `value_twice` when two values are the same one, however they were spelled."""
    seen: set[str] = set()
    for value in values:
        text = json.dumps(value, sort_keys=True)
        if text in seen:
            raise UsageError(
                f"{path} has the value {text} twice",
                code="value_twice",
                seen=text,
                fix="leave one of them out",
            )
        seen.add(text)


def _check_apart(path: str, other: str) -> None:
    """UsageError when a value of one place would overwrite one of the other, or be overwritten by it."""
    (model, inner), (other_model, other_inner) = model_and_path(path), model_and_path(other)
    if model != other_model or CLIENT_BATCH in (path, other):
        return
    pairs = list(zip(segments_of(inner), segments_of(other_inner), strict=False))
    if any(a != b or (i is not None and j is not None and i != j) for (a, i), (b, j) in pairs):
        return
    if path == other:
        message = f"{path} is given twice"
    else:
        outer, within = sorted((other, path), key=lambda each: len(segments_of(model_and_path(each)[1])))
        message = f"{within} lies within {outer}, so that one would overwrite the other"
    raise UsageError(message, code="bad_setting", seen=f"{other}, {path}", fix="leave one of the two out")


def _check_batching_stays(path: str, sizes: Sequence[int | None]) -> None:
    """UsageError for 0, which is the config as it is, or one whose requests have another shape."""
    if not all(sizes):
        raise UsageError(
            f"{path} 0 changes the requests: without batching they have no batch dimension, and nor have the model's dims",
            code="bad_value",
            seen=", ".join("null" if size is None else str(size) for size in sizes),
            valid=["1 and more"],
            fix="1 in place of 0: a batch of one request at most",
        )


def check_batches(space: Mapping[str, Sequence[Any]], batch_size: int) -> None:
    """UsageError for a max_batch_size that takes none of the requests; batch_size: theirs where the space has none."""
    smallest = min(space.get(CLIENT_BATCH, [batch_size]))
    for size in space.get(MAX_BATCH, ()):
        if size < smallest:
            raise UsageError(
                f"max_batch_size {size} takes no request of batch size {smallest}, which is the smallest of this sweep",
                code="bad_value",
                seen=", ".join(map(str, space[MAX_BATCH])),
                valid=[f"{smallest} and more"],
                fix=f"--batch-size {size}",
            )
