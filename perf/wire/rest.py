"""One call of Triton's REST API → JSON, with the target's headers and TLS; for what is asked once."""

from __future__ import annotations

import http.client
import json
from typing import Any
from urllib.parse import quote, urlsplit

from builder.errors import ServerError, TrialError
from perf.wire.http import HttpTarget

_TIMEOUT_S = 10.0


def model_path(model: str, version: str = "") -> str:
    """`/v2/models/M[/versions/V]`, names quoted."""
    path = f"/v2/models/{quote(model, safe='')}"
    return f"{path}/versions/{quote(version, safe='')}" if version else path


def call_json(target: HttpTarget, path: str, *, method: str = "GET") -> Any:
    """The answer as JSON. ServerError when nothing answers, TrialError with Triton's reason otherwise."""
    parts = urlsplit(target.base_url)
    assert parts.hostname is not None
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(
            parts.hostname, parts.port or 443, timeout=_TIMEOUT_S, context=target.tls_context()
        )
    else:
        connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=_TIMEOUT_S)
    try:
        headers = {**target.headers, "Connection": "close"}
        connection.request(method, parts.path.rstrip("/") + path, headers=headers)
        response = connection.getresponse()
        status, body = response.status, response.read()
    except (OSError, http.client.HTTPException) as error:
        raise ServerError(
            f"nothing answers HTTP at {target.url}",
            code="server_unreachable",
            seen=str(error) or type(error).__name__,
            fix="is the server up, and is this its HTTP port (8000 by default)?",
        ) from error
    finally:
        connection.close()
    try:
        value = json.loads(body) if body else None
    except ValueError:
        value = None
    if status != 200:
        reason = value.get("error") if isinstance(value, dict) else body.decode(errors="replace")[:200]
        raise TrialError(
            f"{method} {path}: {reason or 'no reason given'}", code="server_refused", seen=f"HTTP {status}"
        )
    return value
