"""One call of Triton's REST API → JSON, with the target's headers and TLS; for what is asked once."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import quote, urlsplit

from builder.errors import ServerError, TrialError
from perf.wire.http import HttpTarget

_TIMEOUT_S = 10.0


def model_path(model: str, version: str = "") -> str:
    """`/v2/models/M[/versions/V]`, names quoted."""
    path = f"/v2/models/{quote(model, safe='')}"
    return f"{path}/versions/{quote(version, safe='')}" if version else path


def exchange(
    target: HttpTarget,
    method: str,
    path: str,
    body: bytes | str | None,
    headers: Mapping[str, str],
    timeout_s: float = _TIMEOUT_S,
) -> tuple[int, Mapping[str, str], bytes]:
    """One request on a connection of its own → (status, header fields in lower case, body).

    OSError or http.client.HTTPException when nothing answers: what that means is the caller's to say.
    """
    parts = urlsplit(target.base_url)
    assert parts.hostname is not None
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(
            parts.hostname, parts.port or 443, timeout=timeout_s, context=target.tls_context()
        )
    else:
        connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=timeout_s)
    try:
        sent = {**target.headers, **headers, "Connection": "close"}
        connection.request(method, parts.path.rstrip("/") + path, body, sent)
        response = connection.getresponse()
        return response.status, {n.lower(): v for n, v in response.getheaders()}, response.read()
    finally:
        connection.close()


def call_json(target: HttpTarget, path: str, *, method: str = "GET", body: object = None) -> Any:
    """The answer as JSON. ServerError when nothing answers, TrialError with Triton's reason otherwise."""
    try:
        sent = None if body is None else json.dumps(body)
        status, _, answer = exchange(target, method, path, sent, {})
    except (OSError, http.client.HTTPException) as error:
        raise ServerError(
            f"nothing answers HTTP at {target.url}",
            code="server_unreachable",
            seen=str(error) or type(error).__name__,
            fix="--ca-file with the certificate that vouches for the server's"
            if isinstance(error, ssl.SSLCertVerificationError)
            else "is the server up, and is this its HTTP port (8000 by default)?",
        ) from error
    try:
        value = json.loads(answer) if answer else None
    except ValueError:
        value = None
    if status != 200:
        reason = value.get("error") if isinstance(value, dict) else answer.decode(errors="replace")[:200]
        raise TrialError(
            f"{method} {path}: {reason or 'no reason given'}", code="server_refused", seen=f"HTTP {status}"
        )
    return value


class RestApi:
    """A server's REST API; implements perf.wire.api.ServerApi."""

    def __init__(self, target: HttpTarget) -> None:
        self._target = target

    def server_metadata(self) -> Mapping[str, Any]:
        """See ServerApi."""
        return dict(call_json(self._target, "/v2"))

    def repository_index(self) -> list[dict[str, Any]]:
        """See ServerApi."""
        return list(call_json(self._target, "/v2/repository/index", method="POST"))

    def model_metadata(self, model: str, version: str = "") -> Mapping[str, Any]:
        """See ServerApi."""
        return dict(call_json(self._target, model_path(model, version)))

    def model_config(self, model: str, version: str = "") -> Mapping[str, Any]:
        """See ServerApi."""
        return dict(call_json(self._target, f"{model_path(model, version)}/config"))

    def statistics(self, model: str, version: str = "") -> list[dict[str, Any]]:
        """See ServerApi."""
        return list(call_json(self._target, f"{model_path(model, version)}/stats")["model_stats"])

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
