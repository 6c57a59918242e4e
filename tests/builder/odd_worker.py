"""A worker that does what its request says: how it draws, dies, and where it lives."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tritonsmith.builder.base.processes.child_worker import Task, serve


def main(task: Task | None = None) -> None:
    """Answers one {do}."""
    serve(_handle, "being odd", task)


def _handle(request: Mapping[str, Any], out_dir: Path) -> Mapping[str, object]:
    match request["do"]:
        case "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "exit":
            print("leaving")
            sys.stdout.flush()
            os._exit(7)
        case "kill parent":
            os.kill(os.getppid(), signal.SIGKILL)
    return {
        "parent": os.getppid(),
        "group": os.getpgrp() == os.getpid(),
        "drawn": [random.random(), float(np.random.rand())],
        "had": "decimal" in sys.modules,
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "here": str(out_dir),
    }


if __name__ == "__main__":
    main()
