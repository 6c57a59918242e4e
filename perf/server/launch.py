"""ServerSpec → a running tritonserver for the length of a `with` block: embedded, a local binary, a docker
image, or attached."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from builder.errors import ServerError, ToolError, UsageError
from perf.server import control, embedded, preflight
from perf.server.canary import Canary
from perf.server.ports import HOST, Ports, choose_ports
from perf.server.process import GuardedProcess

Kind = Literal["embedded", "binary", "docker", "attached"]
ModelControl = Literal["none", "explicit", "poll"]

# A docker container answers on Triton's own ports inside, and finds the repositories here.
_CONTAINER_PORTS = Ports(8000, 8001, 8002)
_CONTAINER_REPOSITORY = "/models"
_LOAD_THREADS = 16
_PORT_RACES = 3
_POLL_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSpec:
    """Which server to run, on what.

    kind, reference: embedded; binary and its path; docker and its image; attached and its http://host:port.
    repositories:    model repositories, read-only to the server. Nothing for an attached server.
    model_control:   Triton's --model-control-mode.
    load_models:     explicit mode: models to load at the start; ("*",) loads all.
    *_port:          None takes a free one. Attached: None takes Triton's convention, HTTP + 1 and + 2.
    cache_size_bytes: size of the local response cache; 0 for none.
    extra_args:      passed to tritonserver as they are, last, so that they win.
    exit_timeout_s:  how long a stop waits for requests in flight and for connections that clients left open.
    startup_timeout_s: how long all models together may take to load.
    log_path:        where the server's log goes; None keeps it in a temporary directory until the server
                     ends.
    gpus:            docker: --gpus all.
    """

    kind: Kind = "embedded"
    reference: str = ""
    repositories: tuple[Path, ...] = ()
    model_control: ModelControl = "none"
    load_models: tuple[str, ...] = ()
    http_port: int | None = None
    grpc_port: int | None = None
    metrics_port: int | None = None
    cache_size_bytes: int = 0
    extra_args: tuple[str, ...] = ()
    exit_timeout_s: int = 5
    startup_timeout_s: float = 300.0
    log_path: Path | None = None
    gpus: bool = False


def kind_from_text(text: str) -> tuple[Kind, str]:
    """`embedded`, `binary:PATH`, `docker:IMAGE` or `http://HOST:PORT` → (kind, reference)."""
    if text == "embedded":
        return "embedded", ""
    head, _, rest = text.partition(":")
    if head == "binary" and rest:
        return "binary", rest
    if head == "docker" and rest:
        return "docker", rest
    if head in ("http", "https") and urlsplit(text).hostname:
        return "attached", text
    raise UsageError(
        "the launch kind is not known",
        code="unknown_launch",
        seen=text,
        valid=("embedded", "binary:PATH", "docker:IMAGE", "http://HOST:PORT"),
        fix="--launch embedded",
    )


class Server:
    """A running server; its URLs are host:port, as Triton's clients want them."""

    def __init__(
        self,
        *,
        host: str,
        ports: Ports,
        version: str = "",
        process: GuardedProcess | None = None,
        log_path: Path | None = None,
    ) -> None:
        self.http_url = f"{host}:{ports.http}"
        self.grpc_url = f"{host}:{ports.grpc}"
        self.metrics_url = f"{host}:{ports.metrics}"
        self.version = version
        self.log_path = log_path
        self._process = process

    @property
    def pid(self) -> int | None:
        """The server's process; None when it is attached or in a container."""
        return None if self._process is None else self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs, and always for an attached server."""
        return None if self._process is None else self._process.exit_code

    def alive(self) -> bool:
        """Whether the process runs; for an attached server, whether it answers."""
        if self._process is None:
            return control.is_ready(self.http_url)
        return self._process.exit_code is None

    def stop(self) -> None:
        """End the server and all it started; nothing for an attached one. Safe to call twice."""
        if self._process is not None:
            self._process.stop()

    def refusals(self) -> dict[str, str]:
        """{model: Triton's own reason} of every model it would not load."""
        log = ""
        if self.log_path is not None and self.log_path.exists():
            log = self.log_path.read_text(errors="replace")
        return refusals_from(control.repository_index(self.http_url), log)


# What Triton 2.51 logs for a model it could not even poll; those have a row without a state in the index.
_POLL_FAILED = re.compile(r"Poll failed for model directory '([^']+)': (.*)")
_PARSER = re.compile(r"^(?:\[libprotobuf ERROR .*?\] )?(Error parsing text-format .*)$")


def refusals_from(index: list[control.IndexRow], log: str) -> dict[str, str]:
    """(repository index, the server's log) → {model: reason}; a model one of whose versions serves is not in
    it."""
    serving = {row.name for row in index if row.state == "READY"}
    reasons = {
        row.name: row.reason
        for row in index
        if row.state == "UNAVAILABLE" and row.reason and row.reason != "unloaded"
    }
    never_loaded = {row.name for row in index if not row.state}
    parser = ""
    for line in log.splitlines():
        if match := _PARSER.search(line):
            parser = match.group(1)
        if match := _POLL_FAILED.search(line):
            name, reason = match[1], match[2].removesuffix('"')
            if name in never_loaded:
                reasons[name] = f"{reason} ({parser})" if parser and "text proto" in reason else reason
            parser = ""
    return {name: reason for name, reason in sorted(reasons.items()) if name not in serving}


@contextmanager
def launch(spec: ServerSpec) -> Iterator[Server]:
    """Start the server, wait until it is ready, and stop it at the end of the block.

    A model that Triton refuses does not keep the others from being served: see `Server.refusals`. Raises
    ToolError when something is missing, ServerError when the server cannot be started, does not get ready, or
    fails its self-check.
    """
    if spec.kind == "attached":
        yield _attach(spec)
        return
    _check_repositories(spec)
    for attempt in range(_PORT_RACES):
        with ExitStack() as stack:
            try:
                server = _start(spec, stack)
            except ServerError as error:
                if error.code == "port_lost" and attempt + 1 < _PORT_RACES:
                    continue
                raise
            yield server
            return


def _attach(spec: ServerSpec) -> Server:
    parts = urlsplit(spec.reference)
    host, http_port = parts.hostname or HOST, parts.port or 8000
    ports = Ports(http_port, spec.grpc_port or http_port + 1, spec.metrics_port or http_port + 2)
    server = Server(host=host, ports=ports)
    if not control.is_ready(server.http_url):
        raise ServerError(
            f"no ready Triton answers at {spec.reference}",
            code="server_unreachable",
            seen=server.http_url,
            fix="give the address of its HTTP port, or serve with --launch embedded",
        )
    server.version = str(control.server_metadata(server.http_url).get("version", ""))
    return server


def _check_repositories(spec: ServerSpec) -> None:
    for repository in spec.repositories:
        if not repository.is_dir():
            raise UsageError(
                "the model repository is not a directory",
                code="repository_missing",
                seen=repository,
                fix="tritonsmith build makes one",
            )


def _start(spec: ServerSpec, stack: ExitStack) -> Server:
    ports = choose_ports(spec.http_port, spec.grpc_port, spec.metrics_port)
    work_dir = Path(tempfile.mkdtemp(prefix="tritonsmith-"))
    stack.callback(shutil.rmtree, work_dir, ignore_errors=True)
    log_path = (spec.log_path or work_dir / "tritonserver.log").absolute()
    log_path.parent.mkdir(parents=True, exist_ok=True)
    log_path.write_bytes(b"")
    deadline = time.monotonic() + spec.startup_timeout_s

    canary: Canary | None = None
    if spec.kind == "docker":
        process = _start_docker(spec, ports, work_dir, log_path)
        stack.callback(process.stop)
    else:
        plan = _local_plan(spec, work_dir)
        prefix = f"tritonsmith_{os.getpid()}_{secrets.token_hex(4)}_"
        process = GuardedProcess(
            local_command(spec, ports, plan, prefix),
            env=plan.env,
            log_path=log_path,
            work_dir=work_dir,
            patience_s=_patience_s(spec),
            shm_prefix=prefix,
        )
        stack.callback(process.stop)
        if plan.backends is not None:
            canary = Canary(plan.binary, plan.backends, plan.env, work_dir / "canary", f"{prefix}canary_")
            stack.callback(canary.stop)

    server = Server(host=HOST, ports=ports, process=process, log_path=log_path)
    if canary is not None:
        canary.verify(deadline)
        canary.stop()
    _wait_ready(server, spec, deadline)
    server.version = str(control.server_metadata(server.http_url).get("version", ""))
    return server


def _patience_s(spec: ServerSpec) -> float:
    # tritonserver looks once a second whether it may end, and is slower with many stubs.
    return spec.exit_timeout_s + 5.0


@dataclass(frozen=True, slots=True)
class LocalPlan:
    """A tritonserver of this machine: backends is our backend directory, None when the server has its own."""

    binary: Path
    env: dict[str, str]
    backends: Path | None
    own_backends: Path | None = None
    caches: Path | None = None


def _local_plan(spec: ServerSpec, work_dir: Path) -> LocalPlan:
    """Check this machine and lay out what the server needs."""
    if spec.kind == "binary":
        binary = Path(spec.reference).absolute()
        if not os.access(binary, os.X_OK) or binary.is_dir():
            raise ToolError(
                "the tritonserver binary is not an executable file",
                code="binary_missing",
                seen=spec.reference,
                fix="--launch binary:/opt/tritonserver/bin/tritonserver, or --launch embedded",
            )
        root = binary.parent.parent
        if (root / "backends").is_dir():
            caches = root / "caches"
            return LocalPlan(
                binary, dict(os.environ), None, root / "backends", caches if caches.is_dir() else None
            )
    parts = embedded.locate()
    env = embedded.environment(os.environ, work_dir / "lib")
    preflight.check(preflight.observe(parts, env))
    assert parts is not None
    backends = embedded.lay_out_backends(parts, work_dir / "backends")
    if (default := default_max_batch_size(spec.extra_args)) is not None:
        env[embedded.DEFAULT_MAX_BATCH_SIZE] = default
    binary = parts.binary if spec.kind == "embedded" else Path(spec.reference).absolute()
    return LocalPlan(binary, env, backends, None, parts.caches)


def local_command(spec: ServerSpec, ports: Ports, plan: LocalPlan, shm_prefix: str) -> list[str]:
    """The argument list of a tritonserver on this machine."""
    arguments = [str(plan.binary)]
    arguments += [f"--model-repository={path.absolute()}" for path in spec.repositories]
    backends = plan.backends or plan.own_backends
    if backends is not None:
        arguments.append(f"--backend-directory={backends}")
    arguments += [
        f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
        f"--http-address={HOST}",
        f"--http-port={ports.http}",
        f"--grpc-address={HOST}",
        f"--grpc-port={ports.grpc}",
        f"--metrics-address={HOST}",
        f"--metrics-port={ports.metrics}",
        # Loading is mostly waiting for a stub to start or end, a second each.
        f"--model-load-thread-count={_LOAD_THREADS}",
        *_common(spec),
    ]
    if spec.cache_size_bytes and plan.caches is not None:
        arguments.append(f"--cache-directory={plan.caches}")
    return [*arguments, *spec.extra_args]


def default_max_batch_size(extra_args: Sequence[str]) -> str | None:
    """The value of --backend-config=default-max-batch-size, for all backends or for onnxruntime.

    Triton hands it to C++ backends only; ours gets it through its environment.
    """
    value = None
    arguments = " ".join(extra_args).replace("--backend-config ", "--backend-config=").split()
    for argument in arguments:
        match = re.fullmatch(r"--backend-config=(?:onnxruntime)?,?default-max-batch-size=(\d+)", argument)
        value = match.group(1) if match else value
    return value


def docker_command(spec: ServerSpec, ports: Ports, name: str) -> list[str]:
    """The argument list of `docker run`: ports on 127.0.0.1 only, repositories read-only, removed at its
    end."""
    inside = [f"{_CONTAINER_REPOSITORY}/{i}" for i in range(len(spec.repositories))]
    arguments = ["docker", "run", "--rm", "--name", name, "--shm-size=1g"]
    if spec.gpus:
        arguments += ["--gpus", "all"]
    for outside, container in (
        (ports.http, _CONTAINER_PORTS.http),
        (ports.grpc, _CONTAINER_PORTS.grpc),
        (ports.metrics, _CONTAINER_PORTS.metrics),
    ):
        arguments += ["-p", f"{HOST}:{outside}:{container}"]
    for path, target in zip(spec.repositories, inside, strict=True):
        arguments += ["--mount", f"type=bind,source={path.absolute()},target={target},readonly"]
    arguments += [spec.reference, "tritonserver"]
    arguments += [f"--model-repository={path}" for path in inside]
    return [*arguments, *_common(spec), *spec.extra_args]


def _common(spec: ServerSpec) -> list[str]:
    arguments = [
        f"--model-control-mode={spec.model_control}",
        # One refused model must not take the others down; `Server.refusals` tells of it.
        "--exit-on-error=false",
        "--strict-readiness=false",
        f"--exit-timeout-secs={spec.exit_timeout_s}",
    ]
    if spec.model_control == "poll":
        arguments.append("--repository-poll-secs=1")
    arguments += [f"--load-model={name}" for name in spec.load_models]
    if spec.cache_size_bytes:
        arguments.append(f"--cache-config=local,size={spec.cache_size_bytes}")
    return arguments


def _start_docker(spec: ServerSpec, ports: Ports, work_dir: Path, log_path: Path) -> GuardedProcess:
    if shutil.which("docker") is None:
        raise ToolError(
            "docker is not in PATH",
            code="docker_missing",
            seen=spec.reference,
            fix="install Docker, or serve with --launch embedded",
        )
    name = f"tritonsmith-{secrets.token_hex(6)}"
    return GuardedProcess(
        docker_command(spec, ports, name),
        env=dict(os.environ),
        log_path=log_path,
        work_dir=work_dir,
        patience_s=_patience_s(spec),
        # The docker client's end is not the container's.
        after=("docker", "rm", "--force", name),
    )


def _wait_ready(server: Server, spec: ServerSpec, deadline: float) -> None:
    while not (_listens(server, spec) and control.is_ready(server.http_url)):
        if not server.alive():
            raise _died(server, spec)
        if time.monotonic() > deadline:
            raise ServerError(
                f"tritonserver was not ready within {spec.startup_timeout_s:g} s",
                code="startup_timeout",
                seen=_last_words(server),
                fix="give it more time, or look into its log with --log FILE",
            )
        time.sleep(_POLL_S)


def _listens(server: Server, spec: ServerSpec) -> bool:
    """Whether it is this very process that listens on the HTTP port, and not one that was faster to take
    it."""
    if spec.kind == "docker" or server.pid is None:
        return True
    import psutil

    port = int(server.http_url.rpartition(":")[2])
    try:
        connections = psutil.Process(server.pid).net_connections(kind="tcp")
    except psutil.Error:
        return False
    return any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in connections)


def _died(server: Server, spec: ServerSpec) -> ServerError:
    words = _last_words(server)
    all_free = spec.http_port is None and spec.grpc_port is None and spec.metrics_port is None
    if re.search(r"[Aa]ddress already in use|failed to start (HTTP|GRPC|metrics)|bind failed", words or ""):
        return ServerError(
            "another process took one of the server's ports while it started",
            code="port_lost" if all_free else "port_taken",
            seen=words,
            fix="try again, or leave the port flags out",
        )
    return server_ended(server, "before it was ready")


def server_ended(server: Server, when: str) -> ServerError:
    """The error for a server that is gone and should not be, with the last words of its log."""
    how = "does not answer any more" if server.pid is None else f"ended with exit code {server.exit_code}"
    return ServerError(
        f"tritonserver {how} {when}",
        code="server_died",
        seen=_last_words(server),
        fix="look into its whole log: --log FILE",
    )


def _last_words(server: Server) -> str | None:
    """The last error of the log, else its last line."""
    if server.log_path is None or not server.log_path.exists():
        return None
    lines = [line for line in server.log_path.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"E\d{4} |error: |\S*tritonserver: ", line)]
    return next(reversed(errors or lines), None)
