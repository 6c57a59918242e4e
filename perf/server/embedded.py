"""The nvidia-pytriton wheel → a tritonserver that runs from where it is installed, with our backends beside
its own."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

OUR_BACKENDS = Path(__file__).with_name("backends")
STUB = "triton_python_backend_stub"
# Read by backends/onnxruntime/model.py.
DEFAULT_MAX_BATCH_SIZE = "TRITONSMITH_DEFAULT_MAX_BATCH_SIZE"


@dataclass(frozen=True, slots=True)
class Embedded:
    """Where the wheel keeps its parts."""

    binary: Path
    stub: Path
    backend_library: Path
    backend_utils: Path
    caches: Path


def locate() -> Embedded | None:
    """The parts for this Python, without importing the package; None when the wheel is not installed."""
    spec = importlib.util.find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        return None
    root = Path(spec.submodule_search_locations[0]) / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return Embedded(
        binary=root / "bin" / "tritonserver",
        stub=root / "python_backend_stubs" / version / STUB,
        backend_library=root / "backends" / "python" / "libtriton_python.so",
        backend_utils=root / "backends" / "python" / "triton_python_backend_utils.py",
        caches=root / "caches",
    )


def lay_out_backends(parts: Embedded, into: Path) -> Path:
    """Make `into`, a --backend-directory of links (1.4 MB, not the wheel's 60).

    The library must be a real file: Triton refuses one that resolves to a place outside the backend
    directory. The stub must be a link: copied, it no longer finds the libraries it looks for relative to
    itself.
    """
    python = into / "python"
    python.mkdir(parents=True)
    shutil.copyfile(parts.backend_library, python / parts.backend_library.name)
    (python / STUB).symlink_to(parts.stub)
    (python / parts.backend_utils.name).symlink_to(parts.backend_utils)
    for backend in sorted(p for p in OUR_BACKENDS.iterdir() if (p / "model.py").is_file()):
        shutil.copytree(backend, into / backend.name, ignore=shutil.ignore_patterns("__pycache__"))
    return into


def own_libpython() -> Path | None:
    """This interpreter's shared libpython, when it was built with one."""
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    for directory in (sysconfig.get_config_var("LIBDIR"), Path(sys.base_prefix) / "lib"):
        if directory and (Path(directory) / name).is_file():
            return Path(directory) / name
    return None


def environment(base: Mapping[str, str], libraries: Path) -> dict[str, str]:
    """`base` (os.environ) → the environment of an embedded server and its stubs.

    PATH decides which Python environment a stub sees, so ours comes first. `libraries` is a directory that we
    fill: a link to this interpreter's own libpython goes there, so that a stub runs the same Python as we do
    and not whichever libpython the system has, if it has one; nothing else of that directory comes before the
    wheel's.
    """
    env = {k: v for k, v in base.items() if k not in ("PYTHONHOME", "PYTHONSTARTUP")}
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", os.defpath)])
    env["PYTHONNOUSERSITE"] = "1"
    # A stub writes no __pycache__ into the model repository.
    env["PYTHONDONTWRITEBYTECODE"] = "1"
    libpython = own_libpython()
    if libpython is not None:
        libraries.mkdir(parents=True, exist_ok=True)
        link = libraries / libpython.name
        if not link.exists():
            link.symlink_to(libpython)
        paths = [str(libraries), env.get("LD_LIBRARY_PATH", "")]
        env["LD_LIBRARY_PATH"] = os.pathsep.join(p for p in paths if p)
    return env
