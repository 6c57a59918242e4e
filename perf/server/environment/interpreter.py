"""This Python, PATH, pyenv's and uv's directories → a Python that the embedded server's stubs can run on."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import site
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tritonsmith.builder.base.errors import ToolError

# nvidia-pytriton 0.7.0 has stubs for more, but numpy < 2, which its stubs need, ends at Python 3.12.
VERSIONS = ("3.12", "3.11", "3.10")
_UV, _APT = "uv python install 3.12", "apt-get install python3.11-venv libpython3.11"

# Runs in the candidate. `libpython` is null where the system's loader finds it by itself.
_PROBE = """
import ctypes, importlib.util, json, os, sys, sysconfig
name = "libpython%d.%d.so.1.0" % sys.version_info[:2]
places = [os.path.join(p, name) for p in (sysconfig.get_config_var("LIBDIR"), sys.base_prefix + "/lib") if p]
library = next(filter(os.path.isfile, places), None)
why = None
try:
    ctypes.CDLL(library or name)
except OSError as error:
    why = "no shared %s: %s" % (name, error)
if sys.argv[1:] and importlib.util.find_spec("ensurepip") is None:
    why = "no module ensurepip, so no pip"
print(json.dumps({"path": sys.executable, "version": "%d.%d" % sys.version_info[:2], "libpython": library, "why": why}))
"""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python with a libpython that loads; `libpython` is None where the system's loader finds it by itself."""

    path: Path
    version: str
    libpython: Path | None


def own_version() -> str | None:
    """This Python's version when the server can run on it."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return version if version in VERSIONS else None


def own_pip() -> list[str] | None:
    """The command of this environment's own pip, which can install into another; None when there is none."""
    found = importlib.util.find_spec("pip")
    if found is None or found.origin is None or Path(found.origin).is_relative_to(site.getusersitepackages()):
        return None
    return [sys.executable, "-I", "-m", "pip"]


def probe(path: Path) -> Interpreter | str:
    """The interpreter, or why it will not do. Where there is no pip here, it must bring one."""
    command = [str(path), "-I", "-c", _PROBE, *([] if own_pip() else ["ensurepip"])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"does not run: {error.strerror if isinstance(error, OSError) else 'no answer within 20 s'}"
    if done.returncode != 0:
        return f"does not run: {(done.stderr.strip().splitlines() or [f'exit status {done.returncode}'])[-1]}"
    told = json.loads(done.stdout)
    if told["version"] not in VERSIONS:
        return f"is Python {told['version']}"
    if told["why"]:
        return str(told["why"])
    library = Path(told["libpython"]) if told["libpython"] else None
    return Interpreter(Path(told["path"]), told["version"], library)


def find(environ: Mapping[str, str] = os.environ) -> Interpreter:
    """This Python when it will do, else the newest that does. ToolError names what was tried and why not."""
    tried: dict[Path, str] = {}
    for path in _candidates(environ):
        if path in tried:
            continue
        found = probe(path)
        if isinstance(found, Interpreter):
            return found
        tried[path] = found
    raise ToolError(
        "the embedded Triton runs on a Python of its own, and none here will do",
        code="python_missing",
        seen="; ".join(f"{path}: {why}" for path, why in tried.items()),
        valid=[f"Python {version} with a shared libpython" for version in reversed(VERSIONS)],
        fix=f"{_UV}, or {_APT}; then the same command again",
    )


def _candidates(environ: Mapping[str, str]) -> Iterator[Path]:
    yield Path(sys.executable)
    home = Path(environ.get("HOME") or Path.home())
    roots = (
        Path(environ.get("PYENV_ROOT") or home / ".pyenv") / "versions",
        Path(environ.get("UV_PYTHON_INSTALL_DIR") or home / ".local" / "share" / "uv" / "python"),
    )
    for version in VERSIONS:
        if found := shutil.which(f"python{version}", path=environ.get("PATH")):
            yield Path(found)
        for root in roots:
            for pattern in (f"{version}.*", f"cpython-{version}.*-linux-*"):
                yield from sorted(path for path in root.glob(f"{pattern}/bin/python{version}"))
        if uv := shutil.which("uv", path=environ.get("PATH")):
            told = subprocess.run(
                [uv, "python", "find", "--no-project", "--system", version],
                capture_output=True, text=True, timeout=20, check=False,
            )  # fmt: skip
            if told.returncode == 0 and told.stdout.strip():
                yield Path(told.stdout.strip())
