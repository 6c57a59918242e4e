"""Triton's questions and orders over gRPC, for a server without an HTTP port: tritonclient → REST's JSON."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

from tritonsmith.builder.base.errors import ServerError, TrialError
from tritonsmith.builder.base.files.http_ask import ANSWER_LIMIT_BYTES
from tritonsmith.perf.wire import told
from tritonsmith.perf.wire.grpc import GrpcTarget

_TIMEOUT_S = 10.0


class GrpcApi:
    """A server's gRPC API; implements perf.wire.api.ServerApi. What is asked once may take a library's time."""

    def __init__(self, target: GrpcTarget) -> None:
        self._target = target

    def _where(self, what: str) -> str:
        return f"{self._target.url}: {what}"

    def server_metadata(self) -> Mapping[str, Any]:
        """See ServerApi."""
        found = self._call("ServerMetadata", lambda c, o: c.get_server_metadata(**o))
        return told.server_metadata_from(found, self._where("server"))

    def repository_index(self) -> list[dict[str, Any]]:
        """See ServerApi."""
        found = self._call("RepositoryIndex", lambda c, o: c.get_model_repository_index(**o))
        rows = told.index_from(found.get("models", []), self._where("index"))
        return [row.model_dump(mode="json", exclude_unset=True) for row in rows]

    def model_metadata(self, model: str, version: str = "") -> Mapping[str, Any]:
        """See ServerApi."""
        found = self._call("ModelMetadata", lambda c, o: c.get_model_metadata(model, version, **o))
        return told.model_metadata_from(found, self._where(model))

    def model_config(self, model: str, version: str = "") -> Mapping[str, Any]:
        """See ServerApi."""
        found = self._call("ModelConfig", lambda c, o: c.get_model_config(model, version, **o))
        return told.config_from(found.get("config"), self._where(model))

    def statistics(self, model: str, version: str = "") -> list[dict[str, Any]]:
        """See ServerApi."""
        found = self._call("ModelStatistics", lambda c, o: c.get_inference_statistics(model, version, **o))
        return told.statistics_from(found, self._where(model))

    def register_region(self, name: str, key: str, size_bytes: int) -> None:
        """See ServerApi."""

        def register(client: Any, options: dict[str, Any]) -> None:
            client.register_system_shared_memory(name, key, size_bytes, **_without_json(options))

        self._call("SystemSharedMemoryRegister", register)

    def register_cuda_region(self, name: str, handle: bytes, device: int, size_bytes: int) -> None:
        """See ServerApi."""
        encoded = base64.b64encode(handle)  # the library decodes it again

        def register(client: Any, options: dict[str, Any]) -> None:
            client.register_cuda_shared_memory(name, encoded, device, size_bytes, **_without_json(options))

        self._call("CudaSharedMemoryRegister", register)

    def unregister_region(self, name: str, kind: Literal["system", "cuda"] = "system") -> None:
        """See ServerApi."""

        def unregister(client: Any, options: dict[str, Any]) -> None:
            let_go = (
                client.unregister_system_shared_memory
                if kind == "system"
                else client.unregister_cuda_shared_memory
            )
            let_go(name, **_without_json(options))

        self._call(f"{kind.capitalize()}SharedMemoryUnregister", unregister)

    def _call(self, name: str, call: Callable[[Any, dict[str, Any]], Any]) -> Any:
        """One call on a connection of its own: none is left open that would hold up the server's shutdown."""
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what it would print is in the error, too
        import tritonclient.grpc as triton
        from tritonclient.utils import InferenceServerException

        parts = urlsplit(self._target.base_url)
        secure = parts.scheme == "grpcs"
        host, port = str(parts.hostname), parts.port or 8001
        ca_file = self._target.ca_file
        client = triton.InferenceServerClient(
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
            ssl=secure,
            root_certificates=ca_file if secure else None,
            channel_args=[("grpc.max_receive_message_length", ANSWER_LIMIT_BYTES)],
        )
        options = {"headers": dict(self._target.headers), "client_timeout": _TIMEOUT_S, "as_json": True}
        try:
            return call(client, options)
        except InferenceServerException as error:
            status = str(error.status() or "")
            if status.endswith(("UNAVAILABLE", "DEADLINE_EXCEEDED")):
                raise ServerError(
                    f"nothing answers gRPC at {self._target.url}",
                    code="server_unreachable",
                    seen=error.message(),
                    fix="--ca-file with the certificate that vouches for the server's"
                    if "CERTIFICATE_VERIFY_FAILED" in error.message()
                    else "is the server up, is this its gRPC port (8001 by default), and does it speak "
                    + ("TLS?" if secure else "plain gRPC? With TLS the URL is grpcs://"),
                ) from None
            raise TrialError(
                f"{name}: {error.message()}", code="server_refused", seen=status.removeprefix("StatusCode.")
            ) from None
        finally:
            client.close()


def _without_json(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name != "as_json"}
