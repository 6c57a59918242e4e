"""Triton's questions and orders over gRPC, for a server without an HTTP port: KServe v2's messages ↔ REST's JSON."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TypeVar

from tritonsmith.builder.base.errors import ServerError, TrialError, TritonsmithError
from tritonsmith.builder.base.files.http_ask import ANSWER_LIMIT_BYTES, SIGN_IN
from tritonsmith.perf.wire import told
from tritonsmith.perf.wire.grpc import SERVICE, GrpcTarget, framed
from tritonsmith.perf.wire.target import UNKNOWN_CALLER, OneEnd

Result = TypeVar("Result")
_TIMEOUT_S = 10.0
_UNANSWERED = ("gRPC UNAVAILABLE", "gRPC DEADLINE_EXCEEDED")


class GrpcApi:
    """A server's gRPC API; implements perf.wire.api.ServerApi.

    Each call has a connection of its own: none is left open that would hold up the server's shutdown.
    """

    def __init__(self, target: GrpcTarget) -> None:
        self._target = target

    def _where(self, what: str) -> str:
        return f"{self._target.url}: {what}"

    def server_metadata(self) -> Mapping[str, Any]:
        """See ServerApi."""
        return told.server_metadata_from(self._call("ServerMetadata"), self._where("server"))

    def repository_index(self) -> list[dict[str, Any]]:
        """See ServerApi."""
        found = self._call("RepositoryIndex")
        rows = told.index_from(found.get("models", []), self._where("index"))
        return [row.model_dump(mode="json", exclude_unset=True) for row in rows]

    def model_metadata(self, model: str, version: str = "") -> Mapping[str, Any]:
        """See ServerApi."""
        found = self._call("ModelMetadata", name=model, version=version)
        return told.model_metadata_from(found, self._where(model))

    def model_config(self, model: str, version: str = "") -> Mapping[str, Any]:
        """See ServerApi."""
        found = self._call("ModelConfig", name=model, version=version)
        return told.config_from(found.get("config"), self._where(model))

    def statistics(self, model: str, version: str = "") -> list[dict[str, Any]]:
        """See ServerApi."""
        return told.statistics_from(
            self._call("ModelStatistics", name=model, version=version), self._where(model)
        )

    def register_region(self, name: str, key: str, size_bytes: int) -> None:
        """See ServerApi."""
        self._call("SystemSharedMemoryRegister", name=name, key=key, offset=0, byte_size=size_bytes)

    def register_cuda_region(self, name: str, handle: bytes, device: int, size_bytes: int) -> None:
        """See ServerApi."""
        self._call(
            "CudaSharedMemoryRegister", name=name, raw_handle=handle, device_id=device, byte_size=size_bytes
        )

    def unregister_region(self, name: str, kind: Literal["system", "cuda"] = "system") -> None:
        """See ServerApi."""
        self._call(f"{kind.capitalize()}SharedMemoryUnregister", name=name)

    def _call(self, method: str, /, **fields: Any) -> dict[str, Any]:
        """One call of the service → its answer as JSON, in protobuf's form of it."""
        from google.protobuf import json_format
        from google.protobuf.message import DecodeError
        from tritonclient.grpc import service_pb2

        request: bytes = getattr(service_pb2, f"{method}Request")(**fields).SerializeToString()
        reason, answer = _awaited(self._exchange(method, framed(request)))
        if reason is not None:
            raise self._error(method, reason)
        message = getattr(service_pb2, f"{method}Response")()
        try:
            if answer is None or len(answer) < 5 or answer[0]:
                raise ValueError("not one uncompressed message")
            message.ParseFromString(answer[5:])
            # As text and back: only what JSON can hold comes out of it.
            found = json.loads(
                json_format.MessageToJson(message, preserving_proto_field_name=True, indent=None)
            )
        except (DecodeError, ValueError, RecursionError) as error:
            raise ServerError(
                self._where(f"{method}: not what Triton answers: {str(error)[:200]}"), code="not_triton"
            ) from None
        return dict(found)

    async def _exchange(self, name: str, request: bytes) -> tuple[str | None, bytes | None]:
        """(why it failed, else None; the answer)"""
        waiting = OneEnd(asyncio.get_running_loop().create_future())
        try:
            connection = await self._target.opened(
                f"{SERVICE}/{name}", waiting, lambda _: None, limit_bytes=ANSWER_LIMIT_BYTES
            )
        except OSError as error:
            raise self._unopened(error) from None
        try:
            connection.send(0, request, True)
            _, _, reason, answer = await asyncio.wait_for(waiting.ended, _TIMEOUT_S)
            return reason, answer
        except asyncio.TimeoutError:
            return f"gRPC DEADLINE_EXCEEDED: no whole answer within {_TIMEOUT_S:g} s", None
        finally:
            connection.close()
            await asyncio.sleep(0)

    def _unopened(self, error: OSError) -> ServerError:
        url, seen = self._target.url, error.strerror or str(error) or type(error).__name__
        secure = url.startswith("grpcs:")
        if isinstance(error, ssl.SSLCertVerificationError):
            fix = "--ca-file with the certificate that vouches for the server's"
            return ServerError(
                f"nothing answers gRPC at {url} that can be trusted",
                code="server_unreachable",
                seen=seen,
                fix=fix,
            )
        usual = "is the server up, and is this its gRPC port (8001 by default)?"
        tongue = seen.removeprefix("not HTTP/2 but ") if seen.startswith("not HTTP/2 but ") else ""
        if tongue:
            tls = "does it speak plain gRPC? " if secure else "With TLS the URL is grpcs://"
            return ServerError(
                f"what answers at {url} speaks no gRPC: {tongue}",
                code="not_triton",
                seen=seen,
                fix=url.replace("grpc:", "grpcs:", 1) if tongue == "TLS" else f"{usual} {tls}".strip(),
            )
        return ServerError(
            f"nothing answers gRPC at {url}",
            code="server_unreachable",
            seen=seen,
            fix=f"{usual} Does it speak TLS, or want a client certificate (--cert)?"
            if secure
            else f"{usual} With TLS the URL is grpcs://",
        )

    def _error(self, name: str, reason: str) -> TritonsmithError:
        """A call's failure, as perf.wire.http2 words it, as the error that says what mends it."""
        url = self._target.url
        if reason.startswith(UNKNOWN_CALLER):
            return TrialError(f"{name}: {reason}", code="server_refused", seen=url, fix=SIGN_IN)
        if reason.startswith(_UNANSWERED):
            fix = "is the server up, and is this its gRPC port (8001 by default)?"
            return ServerError(
                f"nothing answers gRPC at {url}", code="server_unreachable", seen=reason, fix=fix
            )
        if reason.startswith("gRPC "):
            status, _, text = reason.removeprefix("gRPC ").partition(": ")
            return TrialError(f"{name}: {text or 'no reason given'}", code="server_refused", seen=status)
        return ServerError(
            f"what answers at {url} is not a Triton: {reason}",
            code="not_triton",
            seen=name,
            fix="give the address of its gRPC port (8001 by default)",
        )


def _awaited(work: Coroutine[Any, Any, Result]) -> Result:
    """Its result; from a thread of its own where a loop runs in this one already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()
