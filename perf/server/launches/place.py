"""What a LaunchRow's `start` is given, and what it gives back."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tritonsmith.perf.server.process.ports import Ports
from tritonsmith.perf.server.process.process import GuardedProcess


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server of ours runs.

    ports:      of 127.0.0.1, where it must answer.
    work_dir:   private, removed after the end. log_path: an empty file for its log.
    patience_s: how long a stop may take.
    stack:      what is entered here ends with the server.
    """

    ports: Ports
    work_dir: Path
    log_path: Path
    patience_s: float
    stack: ExitStack

    def run(
        self,
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        *,
        shm_prefix: str = "",
        after: Sequence[str] = (),
    ) -> GuardedProcess:
        """The command as a process that ends with the block; env: this process's own by default, the rest as GuardedProcess."""
        process = GuardedProcess(
            argv,
            env=os.environ if env is None else env,
            log_path=self.log_path,
            work_dir=self.work_dir,
            patience_s=self.patience_s,
            shm_prefix=shm_prefix,
            after=after,
        )
        self.stack.callback(process.stop)
        return process


@dataclass(frozen=True, slots=True)
class Started:
    """prove: (time.monotonic() by which) → None, or ServerError: what must hold before the server counts as ready."""

    process: GuardedProcess
    prove: Callable[[float], None] | None = None
