"""Kind of server → its LaunchRow: how it is named, and who starts it or attaches to it; other packages may add rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from tritonsmith.builder.base.rows import table_of

_HERE = "tritonsmith.perf.server.launches.kinds"


@dataclass(frozen=True, slots=True)
class Command:
    """A process to start. env: None for this process's own. shm_prefix, after: as GuardedProcess takes them.

    prove: (time.monotonic() by which) → None, or ServerError: what must hold before the server counts as ready.
    """

    argv: Sequence[str]
    env: Mapping[str, str] | None = None
    shm_prefix: str = ""
    after: Sequence[str] = ()
    prove: Callable[[float], None] | None = None


@dataclass(frozen=True, slots=True)
class LaunchRow:
    """One kind of server. References are "module:function", imported when they are needed.

    kind:   its name in ServerSpec.
    usage:  as `--launch` takes it: KIND, KIND:REFERENCE, or a URL.
    start:  (ServerSpec, Ports, work_dir) → Command: a server of ours, on these ports of 127.0.0.1, with a directory for its
            files; it ends with its block.
    attach: (ServerSpec) → Server that runs already and goes on. Exactly one of `start` and `attach`.
    check:  (reference) → None, or UsageError before anything is started.
    local:  what `start` runs is the server itself, on this machine: it is what listens, and it follows links in a repository.
    stubs:  each instance of a model is a process of its own, so that the memory of one model can be told.
    """

    kind: str
    usage: str
    start: str | None = None
    attach: str | None = None
    check: str | None = None
    local: bool = True
    stubs: bool = False

    def reference(self, text: str) -> str | None:
        """What `--launch` says beside the kind; None where it is another kind."""
        if "://" in self.usage:
            return text if "://" in text else None
        head, colon, rest = text.partition(":")
        is_ours = head == self.kind and bool(colon) == bool(rest) == (":" in self.usage)
        return rest if is_ours else None


_ROWS = (
    LaunchRow("embedded", "embedded", start=f"{_HERE}:start_embedded", stubs=True),
    LaunchRow("binary", "binary:PATH", start=f"{_HERE}:start_binary"),
    LaunchRow("docker", "docker:IMAGE", start=f"{_HERE}:start_docker", local=False),
    LaunchRow(
        "attached",
        "http://HOST:PORT",
        attach=f"{_HERE}:attach",
        check="tritonsmith.perf.server.spec:address_from_url",
        local=False,
    ),
)
HELP = ", ".join(row.usage for row in _ROWS if row.start) + " or a running server's URL."


@lru_cache(maxsize=1)
def launch_rows() -> Mapping[str, LaunchRow]:
    """Every kind that is known, ours first, then those that other packages name in that group of entry points."""
    return table_of("tritonsmith.launches", LaunchRow, _ROWS, lambda row: row.kind)
