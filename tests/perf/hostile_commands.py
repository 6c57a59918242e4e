"""Run as a process: every command that asks a server, against every hostile one → a JSON line each, with what came of it.

A process of its own, so that its memory can be measured: peak_mib is how much more than before it had at any moment.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import asdict
from functools import partial
from io import StringIO
from pathlib import Path

import numpy as np

from tests.perf.hostile_server import (
    BROKEN,
    FRAMES,
    MISCOUNTED,
    MISTOLD,
    Script,
    frame_server,
    hostile_server,
    telling,
)
from tritonsmith import command_line
from tritonsmith.builder.actions.accuracy.accuracy import Bounds
from tritonsmith.builder.actions.accuracy.samples import Sample, SampleSet
from tritonsmith.builder.base.errors import TritonsmithError
from tritonsmith.builder.plan.targets import target_from_reference
from tritonsmith.builder.publish import Expected, Switched
from tritonsmith.perf.commands.release.live import LiveRelease
from tritonsmith.perf.wire.http import HttpTarget

_SHORT = ("--duration", "50ms", "--warmup", "0s", "--timeout", "150ms", "-c", "2")
_ONCE = ("--timeout", "50ms")  # an answer without end fills until then what may be kept, 256 MiB
_ONE = np.ones((1, 4), np.float32)


def _command(*arguments: str) -> int:
    said = command_line.app(args=list(arguments), standalone_mode=False)
    return said if isinstance(said, int) else 0


def _load(url: str) -> int:
    return _command("load", url, *_SHORT)


def _infer_once(url: str) -> int:
    return _command("infer", url, *_ONCE)


def _status(url: str) -> int:
    return _command("status", url)


def _init(url: str) -> int:
    return _command("init", url, "-o", "-")


def _sweep(url: str) -> int:
    with tempfile.TemporaryDirectory() as directory:
        return _command("sweep", url, "-o", f"{directory}/run", "--rounds", "1", "--duration", "100ms")


def _release(url: str) -> int:
    release = LiveRelease([HttpTarget(url)], timeout_s=1.0)
    release.check()
    samples = SampleSet((Sample({"x": _ONE}, {"y": _ONE}, "s"),), "")
    release.follow(Switched("m", (1,), Expected(samples, {"y": asdict(Bounds())})))
    return 0


def _target(url: str) -> int:
    target_from_reference(url)
    return 0


COMMANDS: dict[str, Callable[[str], int]] = {
    "load": _load,
    "infer": _infer_once,
    "status": _status,
    "init": _init,
    "sweep": _sweep,
    "publish": _release,
    "target": _target,
}


def _status_kib(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+)", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def _tried(case: str, name: str, run: Callable[[], int]) -> None:
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before_kib, started_s = _status_kib("VmRSS"), time.monotonic()
    out, err = StringIO(), StringIO()
    said: dict[str, object] = {"case": case, "command": name, "code": 0, "error": None, "bug": None}
    try:
        with redirect_stdout(out), redirect_stderr(err):
            said["code"] = run()
    except TritonsmithError as error:
        said |= {
            "code": error.exit_code,
            "error": error.code,
            "text": str(error)[:500],
            "length": len(str(error)),
        }
    except BaseException:
        said["bug"] = traceback.format_exc()
    said |= {
        "peak_mib": (_status_kib("VmHWM") - before_kib) / 1024,
        "took_s": time.monotonic() - started_s,
        "out": out.getvalue()[:2000],
    }
    sys.__stdout__.write(json.dumps(said) + "\n")  # type: ignore[union-attr]


def _infer(script: Script) -> Script:
    """Honest but for the answers to requests."""
    honest = telling({})
    return lambda asked: script(asked) if asked.endswith("/infer") else honest(asked)


def _http() -> Iterator[tuple[str, Script, tuple[str, ...]]]:
    for name, script in BROKEN.items():
        yield name, script, tuple(COMMANDS)
    for name, lies in MISTOLD.items():
        yield (
            name,
            telling(lies),
            ("load", "infer", "init", "sweep", *(("status", "publish") if "/index" in lies else ())),
        )
    for name, lie in MISCOUNTED.items():
        yield name, telling({"/stats": lie}), ("load", "status")
    for name, script in BROKEN.items():
        yield f"infer-{name}", _infer(script), ("load", "infer", "publish")


def _runs() -> Iterator[tuple[str, str, Callable[[], None]]]:
    """(case, command, what starts the server and runs it)"""
    for case, script, names in _http():
        for name in names:
            yield case, name, partial(_over_http, case, name, script)
    for case in FRAMES:
        for name in ("load", "stream", "infer"):
            yield f"grpc-{case}", name, partial(_over_grpc, case, name)


def _over_http(case: str, name: str, script: Script) -> None:
    with hostile_server(script) as url:
        _tried(case, name, lambda: COMMANDS[name](url))


def _over_grpc(case: str, name: str) -> None:
    with hostile_server(telling({})) as url, frame_server(*FRAMES[case]) as grpc:
        flags = (url, "--protocol", "grpc", "--grpc-url", f"grpc://{grpc}")
        asked = {
            "load": ("load", *flags, *_SHORT),
            "stream": ("load", *flags, *_SHORT, "--streaming"),
            "infer": ("infer", *flags, *_ONCE),
        }
        _tried(f"grpc-{case}", name, lambda: _command(*asked[name]))


def main(every: int) -> None:
    """Each so manieth of all runs."""
    with hostile_server(telling({})) as url:  # all that is imported on the way is not in the numbers
        for run in (_load, _init, _release, _infer_once, _status):
            with redirect_stdout(StringIO()), redirect_stderr(StringIO()), suppress(TritonsmithError):
                run(url)
    for _, _, run_it in [*_runs()][::every]:
        run_it()


if __name__ == "__main__":
    main(int(sys.argv[1]))
