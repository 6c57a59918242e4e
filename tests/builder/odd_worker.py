"""A worker that does what its request says: how it draws, dies, what it leaves behind, and where it lives."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from tritonsmith.builder.base.processes.child_worker import Task, enter_search_path, left, serve

_done: list[str] = []


def main(task: Task | None = None) -> None:
    """Answers one {do}."""
    serve(_handle, "being odd", task)


def _handle(request: Mapping[str, Any], out_dir: Path) -> Mapping[str, object]:
    _done.append(request["do"])
    match request["do"]:
        case "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "exit":
            print("leaving")
            sys.stdout.flush()
            os._exit(7)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "kill unless first":
            if len(_done) > 1:
                os.kill(os.getpid(), signal.SIGKILL)
        case "kill parent":
            os.kill(os.getppid(), signal.SIGKILL)
        case "sleep":
            time.sleep(600)
        case "run out of memory":
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), resource.RLIM_INFINITY))
            bytearray(1 << 30)
        case "limit":
            resource.setrlimit(resource.RLIMIT_NOFILE, (200, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        case "change all":
            os.environ["ODD"] = "1"
            del os.environ["PATH"]
            enter_search_path(out_dir)
            warnings.simplefilter("ignore")
        case "warn":
            warnings.warn("as often as it is asked", stacklevel=1)
        case "import":
            (out_dir / "odd_module.py").write_text("")
            enter_search_path(out_dir)
            import_module("odd_module")
        case "thread":
            threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
        case "child":
            subprocess.Popen(["sleep", "600"])
        case "leave":
            left()["it"] = request["do"]
        case "grow":
            left()["it"] = np.ones(100 << 20, np.uint8)
    print(f"did {request['do']}")
    return {
        "process": os.getpid(),
        "parent": os.getppid(),
        "group": os.getpgrp() == os.getpid(),
        "drawn": [random.random(), float(np.random.rand())],
        "had": "decimal" in sys.modules,
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "here": str(out_dir),
        "state": [
            sorted(os.environ.items()),
            str(Path.cwd()),
            sys.path,
            resource.getrlimit(resource.RLIMIT_NOFILE),
        ],
        "left": sorted(left()),
    }


if __name__ == "__main__":
    main()
