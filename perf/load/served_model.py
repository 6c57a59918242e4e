"""(a server's API, the name that was asked for) → what the model takes, or an error that says which would do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tritonsmith.builder.base.errors import ServerError, TrialError, UsageError, unknown
from tritonsmith.perf.data import ModelInterface, interface_from_metadata
from tritonsmith.perf.data.interface import composing_models
from tritonsmith.perf.wire.api import ServerApi
from tritonsmith.perf.wire.paths import ends_a_path

_MOST_MEMBERS = 100

Row = Mapping[str, Any]
"""Of the repository index: name, version, state, reason (Triton's model repository extension)."""


def interface_of(api: ServerApi, model: str, version: str = "") -> ModelInterface:
    """What the server says the model takes; an empty name means the only one that is ready.

    UsageError when the server has no such model or version, TrialError when it is there and not ready.
    """
    model = model or only_model(api)
    try:
        found = interface_from_metadata(api.model_metadata(model, version), api.model_config(model, version))
    except TrialError as refusal:
        raise _not_served(model, version, _index(api), refusal) from refusal
    return replace(found, version=version)


def members_of(api: ServerApi, model: ModelInterface) -> tuple[str, ...]:
    """The models that an ensemble is composed of, those of ensembles inside it too; none of another model."""
    found, waiting = dict.fromkeys(model.composing), list(model.composing)
    while waiting and len(found) < _MOST_MEMBERS:
        try:
            inside = composing_models(api.model_config(waiting.pop(0)))
        except (TrialError, ServerError):  # it is loaded, or the ensemble would not be; its counters say more
            continue
        waiting += [name for name in inside if name not in found and name != model.name]
        found |= dict.fromkeys(name for name in inside if name != model.name)
    return tuple(found)


def only_model(api: ServerApi) -> str:
    """The one model that is ready; UsageError names all when there are several or none."""
    rows = api.repository_index()
    ready = sorted({row["name"] for row in rows if _is_ready(row)})
    if len(ready) != 1:
        raise UsageError(
            "which model?" if ready else "the server has no model ready",
            code="no_model",
            seen=None if ready else "; ".join(_state(row) for row in rows) or "an empty repository",
            valid=ready,
            fix=f"--model {ready[0]}" if ready else None,
        )
    return str(ready[0])


def _index(api: ServerApi) -> list[dict[str, Any]] | None:
    """None where the server does not tell."""
    try:
        return api.repository_index()
    except (TrialError, ServerError, TypeError):  # an older server, or one that keeps its index to itself
        return None


def _not_served(
    model: str, version: str, rows: Sequence[Row] | None, refusal: TrialError
) -> TrialError | UsageError:
    """What the server's refusal to describe a model comes from, as far as its index tells."""
    of_model = [row for row in rows or () if row["name"] == model]
    versions = sorted({str(row["version"]) for row in of_model if _is_ready(row) and row.get("version")})
    if version and versions and version not in versions:
        return UsageError(
            f"the server does not serve this version of `{model}`",
            code="unknown_version",
            seen=version,
            valid=versions,
            fix=f"--version {versions[-1]}",
        )
    if of_model and not any(_is_ready(row) for row in of_model):
        return TrialError(
            f"`{model}` is not ready",
            code="model_not_ready",
            seen="; ".join(_state(row) for row in of_model),
            fix="load it, or see the server's log for why it did not load",
        )
    if (
        of_model
        and refusal.seen is not None
        and str(refusal.seen).startswith("HTTP")
        and (bad := ends_a_path(model))
    ):
        return UsageError(
            f"`{model}` cannot be asked over HTTP: Triton has no path to a name with {bad!r} in it",
            code="no_http_path",
            fix="give the server's gRPC address, grpc://HOST:8001, or rename the model",
        )
    if of_model or rows is None:
        return refusal
    if not rows:
        return UsageError(
            f"the server has no model `{model}`, nor any other",
            code="unknown_model",
            seen="an empty repository",
            fix="name a repository that was built, or load the model",
        )
    return unknown_model(model, sorted({row["name"] for row in rows}))


def unknown_model(model: str, names: Sequence[str]) -> UsageError:
    """A server has these models, and not the one that was asked for."""
    return UsageError(f"the server has no model `{model}`", code="unknown_model", **unknown(model, names))


def _is_ready(row: Row) -> bool:
    return bool(row.get("state") == "READY")  # a model that was never loaded has none


def _state(row: Row) -> str:
    version = f" version {row['version']}" if row.get("version") else ""
    reason = f" ({row['reason']})" if row.get("reason") else ""
    return f"{row['name']}{version}: {row.get('state') or 'not loaded'}{reason}"
