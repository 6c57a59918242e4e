"""What a user says of a server → ServerSpec, checked before anything is started."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from tritonsmith.builder.base.errors import UsageError
from tritonsmith.builder.base.files.address import bracketed, is_bracketed, refuse_bare_ipv6
from tritonsmith.builder.base.rows import function_of
from tritonsmith.builder.base.text.shown import refuse_secrets
from tritonsmith.perf.server.launches.table import launch_rows

ModelControl = Literal["none", "explicit", "poll"]

# What we must know to find and stop the server, and where it may listen.
_RESERVED = {
    **{
        f"--{name}-port": f"give the port with --{name}-port before the --"
        for name in ("http", "grpc", "metrics")
    },
    **{f"--{name}-address": "the server listens on 127.0.0.1 only" for name in ("http", "grpc", "metrics")},
    "--model-repository": "give the repository as DIR",
    "--model-store": "give the repository as DIR",
    "--model-control-mode": "give the mode with --model-control before the --",
    "--log-file": "give the file with --log before the --",
    "--allow-http": "the harness talks to the server over HTTP",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSpec:
    """Which server to run, on what.

    kind, reference: of perf.server.launches.table; embedded; binary and its path; docker and its image; attached and its
                     http://host:port.
    repositories:    model repositories, read-only to the server. Nothing for an attached server.
    model_control:   Triton's --model-control-mode.
    load_models:     explicit mode: models to load at the start; ("*",) loads all.
    *_port:          None takes a free one. Attached: None takes Triton's convention, HTTP + 1 and + 2.
    cache_size_bytes: size of the local response cache; 0 for none; None: DEFAULT_CACHE_BYTES where a config.pbtxt of
                     the repositories asks for one, see perf.server.process.response_cache.
    extra_args:      passed to tritonserver as they are, last, so that they win. Paths in them must be absolute,
                     for the server runs in a directory of its own.
    exit_timeout_s:  how long a stop waits for requests in flight and for connections that clients left open.
    startup_timeout_s: how long all models together may take to load.
    log_path:        where the server's log goes; None keeps it in a temporary directory until the server
                     ends.
    gpus:            docker: --gpus all.
    """

    kind: str = "embedded"
    reference: str = ""
    repositories: tuple[Path, ...] = ()
    model_control: ModelControl = "none"
    load_models: tuple[str, ...] = ()
    http_port: int | None = None
    grpc_port: int | None = None
    metrics_port: int | None = None
    cache_size_bytes: int | None = None
    extra_args: tuple[str, ...] = ()
    exit_timeout_s: int = 5
    startup_timeout_s: float = 300.0
    log_path: Path | None = None
    gpus: bool = False


def kind_from_text(text: str) -> tuple[str, str]:
    """`embedded`, `binary:PATH`, `docker:IMAGE` or `http://HOST:PORT` → (kind, reference)."""
    refuse_bare_ipv6(text)
    if is_bracketed(text):  # [::1]:8000 is nothing else
        text = f"http://{text}"
    rows = launch_rows().values()
    for row in rows:
        reference = row.reference(text)
        if reference is not None:
            if row.check is not None:
                function_of(row.check)(reference)
            return row.kind, reference
    raise UsageError(
        "the launch kind is not known",
        code="unknown_launch",
        seen=text,
        valid=tuple(row.usage for row in rows),
        fix="--launch embedded",
    )


def address_from_url(url: str) -> tuple[str, int]:
    """`http://HOST[:PORT]` → (HOST, with brackets around an IPv6 one, PORT); 8000 where none is named.

    UsageError for all that would be dropped: another scheme, https among them, a path; and for credentials.
    """
    refuse_secrets(url, "an attached server is asked without one")
    refuse_bare_ipv6(url)
    try:
        parts = urlsplit(url)
        port = 8000 if parts.port is None else parts.port
    except ValueError:  # no number, or a bracket without its other one
        parts, port = urlsplit(url.replace("[", "").replace("]", "")), 0
    host = parts.hostname or ""
    dropped = parts.username is not None or parts.path not in ("", "/") or parts.query or parts.fragment
    if parts.scheme != "http" or not host or not port or dropped:
        at = parts.netloc.rpartition("@")[2] or "HOST:8000"
        raise UsageError(
            "a running Triton is reached over plain HTTP here, not over https"
            if parts.scheme == "https"
            else "a running Triton's URL is http://HOST:PORT, its HTTP port",
            code="bad_url",
            seen=f"{parts.scheme}://{at}{parts.path}",
            valid=("http://HOST:PORT",),
            fix="give the address behind what speaks TLS for it; of the commands, load and publish --reload take https"
            if parts.scheme == "https"
            else "http://localhost:8000",
        )
    return bracketed(host), port


def check_usage(spec: ServerSpec) -> None:
    """Raise UsageError when a repository is not there or an extra argument is ours to set."""
    for argument in spec.extra_args:
        flag = argument.partition("=")[0]
        if flag in _RESERVED:
            raise UsageError(
                f"{flag} is ours to set and cannot be passed on to tritonserver",
                code="reserved_argument",
                seen=argument,
                fix=_RESERVED[flag],
            )
    for repository in spec.repositories:
        if not repository.is_dir():
            raise UsageError(
                "the model repository is not a directory",
                code="repository_missing",
                seen=repository,
                fix="tritonsmith build makes one",
            )
