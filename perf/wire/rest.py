"""One call of Triton's REST API → JSON, with the target's headers and TLS; for what is asked once."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import quote

from tritonsmith.builder.base.errors import ServerError, TrialError
from tritonsmith.builder.base.files.http_ask import (
    ANSWER_LIMIT_BYTES,
    SIGN_IN,
    Reply,
    ask,
    is_strange,
    json_from,
    no_answer,
    not_triton,
    reason_of,
)
from tritonsmith.perf.wire import told
from tritonsmith.perf.wire.http import HttpTarget
from tritonsmith.perf.wire.paths import model_path

_TIMEOUT_S = 10.0


def exchange(
    target: HttpTarget,
    method: str,
    path: str,
    body: bytes | None = None,
    fields: Mapping[str, str] | None = None,
    *,
    timeout_s: float = _TIMEOUT_S,
    limit_bytes: int = ANSWER_LIMIT_BYTES,
) -> Reply:
    """`builder.base.files.http_ask.ask` with the target's headers and trust; OSError as there."""
    secure = target.base_url.startswith("https:")
    return ask(
        target.base_url,
        method,
        path,
        body,
        {**target.headers, **(fields or {})},
        timeout_s=timeout_s,
        limit_bytes=limit_bytes,
        tls=target.tls.context() if secure else None,
    )


def call_json(target: HttpTarget, path: str, *, method: str = "GET", body: object = None) -> Any:
    """The answer as JSON. ServerError when nothing answers, TrialError with Triton's reason otherwise."""
    return _json_of(target, f"{method} {path}", _reply(target, method, path, body))


def _reply(target: HttpTarget, method: str, path: str, body: object = None) -> Reply:
    try:
        return exchange(target, method, path, None if body is None else json.dumps(body).encode())
    except OSError as error:
        raise no_answer(target.url, error) from error


def _json_of(target: HttpTarget, asked: str, reply: Reply) -> Any:
    if reply.status != 200:
        raise TrialError(
            f"{asked}: {reason_of(reply.body) or 'no reason given'}",
            code="server_refused",
            seen=f"HTTP {reply.status}",
            fix=SIGN_IN if reply.status in (401, 403) else None,
        )
    try:
        return json_from(reply.body) if reply.body else None
    except ValueError as error:
        raise ServerError(
            f"{target.url}: {asked}: the answer is no JSON: {str(error)[:200]}", code="not_triton"
        ) from None


class RestApi:
    """A server's REST API; implements perf.wire.api.ServerApi."""

    def __init__(self, target: HttpTarget) -> None:
        self._target = target

    def _where(self, what: str) -> str:
        return f"{self._target.url}: {what}"

    def server_metadata(self) -> Mapping[str, Any]:
        """See ServerApi. ServerError not_triton where something else answers: it is what is asked first."""
        reply = _reply(self._target, "GET", "/v2")
        if is_strange(reply):
            raise not_triton(self._target.url, reply)
        return told.server_metadata_from(_json_of(self._target, "GET /v2", reply), self._where("server"))

    def repository_index(self) -> list[dict[str, Any]]:
        """See ServerApi."""
        rows = call_json(self._target, "/v2/repository/index", method="POST")
        return [
            row.model_dump(mode="json", exclude_unset=True)
            for row in told.index_from(rows, self._where("index"))
        ]

    def model_metadata(self, model: str, version: str = "") -> Mapping[str, Any]:
        """See ServerApi."""
        found = call_json(self._target, model_path(model, version))
        return told.model_metadata_from(found, self._where(model))

    def model_config(self, model: str, version: str = "") -> Mapping[str, Any]:
        """See ServerApi."""
        found = call_json(self._target, f"{model_path(model, version)}/config")
        return told.config_from(found, self._where(model))

    def statistics(self, model: str, version: str = "") -> list[dict[str, Any]]:
        """See ServerApi."""
        found = call_json(self._target, f"{model_path(model, version)}/stats")
        return told.statistics_from(found, self._where(model))

    def register_region(self, name: str, key: str, size_bytes: int) -> None:
        """See ServerApi."""
        body = {"key": key, "offset": 0, "byte_size": size_bytes}
        call_json(self._target, f"{_region_path(name)}/register", method="POST", body=body)

    def register_cuda_region(self, name: str, handle: bytes, device: int, size_bytes: int) -> None:
        """See ServerApi."""
        raw_handle = {"b64": base64.b64encode(handle).decode()}
        body = {"raw_handle": raw_handle, "device_id": device, "byte_size": size_bytes}
        call_json(self._target, f"{_region_path(name, 'cuda')}/register", method="POST", body=body)

    def unregister_region(self, name: str, kind: Literal["system", "cuda"] = "system") -> None:
        """See ServerApi."""
        call_json(self._target, f"{_region_path(name, kind)}/unregister", method="POST")


def _region_path(name: str, kind: Literal["system", "cuda"] = "system") -> str:
    """Triton's shared-memory extension."""
    return f"/v2/{kind}sharedmemory/region/{quote(name, safe='')}"
