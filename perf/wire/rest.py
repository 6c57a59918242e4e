"""One call of Triton's REST API → its answer, with the target's headers and TLS; for what is asked once.

One connection a call, closed at once: an idle keep-alive connection would hold up the server's own shutdown.
Importing tritonclient.http would cost 0.3 s, so this speaks HTTP itself. Protocol: KServe v2 with Triton's
extensions (model repository, model configuration, statistics), as documented in
triton-inference-server/server docs/protocol.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal
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
from tritonsmith.perf.wire.paths import model_path

if TYPE_CHECKING:  # numpy comes with them
    from tritonsmith.perf.wire.http import HttpTarget
    from tritonsmith.perf.wire.payload import Answer, InferPayload

_TIMEOUT_S = 10.0


def exchange(
    target: HttpTarget | str,
    method: str,
    path: str,
    body: bytes | None = None,
    fields: Mapping[str, str] | None = None,
    *,
    timeout_s: float = _TIMEOUT_S,
    limit_bytes: int = ANSWER_LIMIT_BYTES,
) -> Reply:
    """`builder.base.files.http_ask.ask` with the target's headers and trust; OSError as there.

    target: `host:port` alone is a server that wants to see nothing of us.
    """
    headers: Mapping[str, str] = {}
    tls = None
    if not isinstance(target, str):
        headers, tls = target.headers, target.tls.context() if target.base_url.startswith("https:") else None
    return ask(
        url_of(target),
        method,
        path,
        body,
        {**headers, **(fields or {})},
        timeout_s=timeout_s,
        limit_bytes=limit_bytes,
        tls=tls,
    )


def call(
    target: HttpTarget | str,
    method: str,
    path: str,
    body: object = None,
    fields: Mapping[str, str] | None = None,
    *,
    timeout_s: float = _TIMEOUT_S,
    limit_bytes: int = ANSWER_LIMIT_BYTES,
) -> Reply:
    """`exchange`, of bytes or what becomes JSON; ServerError when nothing answers."""
    if body is not None and not isinstance(body, bytes):
        body, fields = json.dumps(body).encode(), {"Content-Type": "application/json", **(fields or {})}
    try:
        return exchange(target, method, path, body, fields, timeout_s=timeout_s, limit_bytes=limit_bytes)
    except OSError as error:
        raise no_answer(url_of(target), error) from error


def ask_infer(target: HttpTarget, payload: InferPayload, *, timeout_s: float, limit_bytes: int) -> Answer:
    """One infer request on a connection of its own → its answer, `error` set where it is none.

    limit_bytes: of the answer. OSError when nothing answers.
    """
    from tritonsmith.perf.wire.payload import Answer, decode_http, http_request

    head, _, body = http_request(payload, target.address().authority).partition(b"\r\n\r\n")
    lines = (line.split(": ", 1) for line in head.decode("latin-1").split("\r\n")[1:])
    fields = {name: value for name, value in lines if name != "Host"}
    path = f"{model_path(payload.model, payload.version)}/infer"
    reply = exchange(target, "POST", path, body, fields, timeout_s=timeout_s, limit_bytes=limit_bytes)
    if reply.status != 200:
        reason = reason_of(reply.body).partition("\n\nAt:\n")[0].strip() or "no reason given"
        return Answer({}, f"HTTP {reply.status}: {' '.join(reason.split())}")
    length = reply.fields.get("inference-header-content-length")
    try:
        return decode_http(None if length is None else int(length), reply.body)
    except ValueError as error:
        return Answer({}, f"not an infer answer: {error}")


def call_json(
    target: HttpTarget | str,
    path: str,
    *,
    method: str = "GET",
    body: object = None,
    timeout_s: float = _TIMEOUT_S,
) -> Any:
    """The answer as JSON. ServerError when nothing answers, TrialError with Triton's reason otherwise."""
    reply = call(target, method, path, body, timeout_s=timeout_s)
    return json_of(target, method, path, reply)


def json_of(target: HttpTarget | str, method: str, path: str, reply: Reply) -> Any:
    """An answer's JSON; TrialError with Triton's reason where it is not 200."""
    if reply.status != 200:
        raise refused(target, method, path, reply)
    try:
        return json_from(reply.body) if reply.body else None
    except ValueError as error:
        raise ServerError(
            f"{url_of(target)}: {method} {path}: the answer is no JSON: {str(error)[:200]}",
            code="not_triton",
        ) from None


def refused(target: HttpTarget | str, method: str, path: str, reply: Reply) -> TrialError:
    """The error of an answer that is not 200."""
    return TrialError(
        f"Triton at {url_of(target)} refused {method} {path}: {reason(reply)}",
        code="server_refused",
        seen=f"HTTP {reply.status}",
        fix=SIGN_IN if reply.status in (401, 403) else None,
    )


def reason(reply: Reply) -> str:
    """Triton's words for why it refused."""
    return tidy(reason_of(reply.body)) or "no reason given"


def tidy(reason: str) -> str:
    """Without the traceback of our own backend; that of a user's Python model stays."""
    frames = reason.partition("\nAt:\n")[2].strip("; \n").splitlines()
    if frames and all("/backends/onnxruntime/" in f or "/onnxruntime/capi/" in f for f in frames):
        reason = reason.partition("\nAt:\n")[0]
    return reason.strip().removeprefix("Internal: TritonModelException: ")


def url_of(target: HttpTarget | str) -> str:
    """With its scheme."""
    return f"http://{target}" if isinstance(target, str) else target.base_url


class RestApi:
    """A server's REST API; implements perf.wire.api.ServerApi. target: as `exchange` takes it."""

    def __init__(self, target: HttpTarget | str, timeout_s: float = _TIMEOUT_S) -> None:
        self._target = target
        self._timeout_s = timeout_s

    def _call(self, path: str, *, method: str = "GET", body: object = None) -> Any:
        return call_json(self._target, path, method=method, body=body, timeout_s=self._timeout_s)

    def _where(self, what: str) -> str:
        return f"{url_of(self._target)}: {what}"

    def server_metadata(self) -> dict[str, Any]:
        """See ServerApi. ServerError not_triton where something else answers: it is what is asked first."""
        reply = call(self._target, "GET", "/v2", timeout_s=self._timeout_s)
        if is_strange(reply):
            raise not_triton(url_of(self._target), reply)
        return told.server_metadata_from(json_of(self._target, "GET", "/v2", reply), self._where("server"))

    def repository_index(self) -> list[dict[str, Any]]:
        """See ServerApi."""
        rows = self._call("/v2/repository/index", method="POST")
        return [
            row.model_dump(mode="json", exclude_unset=True)
            for row in told.index_from(rows, self._where("index"))
        ]

    def model_metadata(self, model: str, version: str = "") -> dict[str, Any]:
        """See ServerApi."""
        return told.model_metadata_from(self._call(model_path(model, version)), self._where(model))

    def model_config(self, model: str, version: str = "") -> dict[str, Any]:
        """See ServerApi."""
        return told.config_from(self._call(f"{model_path(model, version)}/config"), self._where(model))

    def statistics(self, model: str = "", version: str = "") -> list[dict[str, Any]]:
        """See ServerApi; of all models without a name."""
        path = model_path(model, version) if model else "/v2/models"
        return told.statistics_from(self._call(f"{path}/stats"), self._where(model or "statistics"))

    def register_region(self, name: str, key: str, size_bytes: int) -> None:
        """See ServerApi."""
        body = {"key": key, "offset": 0, "byte_size": size_bytes}
        self._call(f"{_region_path(name)}/register", method="POST", body=body)

    def register_cuda_region(self, name: str, handle: bytes, device: int, size_bytes: int) -> None:
        """See ServerApi."""
        raw_handle = {"b64": base64.b64encode(handle).decode()}
        body = {"raw_handle": raw_handle, "device_id": device, "byte_size": size_bytes}
        self._call(f"{_region_path(name, 'cuda')}/register", method="POST", body=body)

    def unregister_region(self, name: str, kind: Literal["system", "cuda"] = "system") -> None:
        """See ServerApi."""
        self._call(f"{_region_path(name, kind)}/unregister", method="POST")


def _region_path(name: str, kind: Literal["system", "cuda"] = "system") -> str:
    """Triton's shared-memory extension."""
    return f"/v2/{kind}sharedmemory/region/{quote(name, safe='')}"
