"""A Python environment with the nvidia-pytriton wheel → a tritonserver that runs from where it is installed, with our
backends beside its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

OUR_BACKENDS = Path(__file__).with_name("backends")
STUB = "triton_python_backend_stub"
# Read by backends/onnxruntime/model.py.
DEFAULT_MAX_BATCH_SIZE = "TRITONSMITH_DEFAULT_MAX_BATCH_SIZE"
# The user's PYTHONPATH, which the environment's tritonsmith.pth appends to sys.path.
MODEL_PATH = "TRITONSMITH_PYTHONPATH"


@dataclass(frozen=True, slots=True)
class PythonEnvironment:
    """A virtual environment that Triton's stubs run in.

    python:    its version, "3.11". libpython: the shared library of its Python; None where the system's loader
               finds it by itself.
    """

    root: Path
    python: str
    libpython: Path | None

    @property
    def python_path(self) -> Path:
        """Its interpreter."""
        return self.root / "bin" / "python3"

    @property
    def site_packages(self) -> Path:
        """Where its packages lie."""
        return self.root / "lib" / f"python{self.python}" / "site-packages"


@dataclass(frozen=True, slots=True)
class Embedded:
    """Where the wheel keeps its parts."""

    binary: Path
    stub: Path
    backend_library: Path
    backend_utils: Path
    caches: Path


def locate(environment: PythonEnvironment) -> Embedded:
    """The parts in the server's own environment (not in a layer on it)."""
    root = environment.site_packages / "pytriton" / "tritonserver"
    return Embedded(
        binary=root / "bin" / "tritonserver",
        stub=root / "python_backend_stubs" / environment.python / STUB,
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


def variables(environment: PythonEnvironment, base: Mapping[str, str], libraries: Path) -> dict[str, str]:
    """`base` (os.environ) → the environment variables of an embedded server and its stubs.

    PATH decides which Python environment a stub sees, so `environment` comes first. The user's PYTHONPATH comes
    last in a stub's sys.path, with relative entries made absolute. `libraries` is a directory that we fill: a link
    to the environment's own libpython goes there, so that a stub runs the same Python and not whichever libpython
    the system has, if it has one; nothing else of that directory comes before the wheel's.
    """
    env = {k: v for k, v in base.items() if k not in ("PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP")}
    env["PATH"] = os.pathsep.join([str(environment.python_path.parent), env.get("PATH", os.defpath)])
    given = [p for p in base.get("PYTHONPATH", "").split(os.pathsep) if p]
    env[MODEL_PATH] = os.pathsep.join(str(Path(p).absolute()) for p in given)
    env["PYTHONNOUSERSITE"] = "1"
    # A stub writes no __pycache__ into the model repository.
    env["PYTHONDONTWRITEBYTECODE"] = "1"
    if environment.libpython is not None:
        libraries.mkdir(parents=True, exist_ok=True)
        link = libraries / environment.libpython.name
        if not link.exists():
            link.symlink_to(environment.libpython)
        paths = [str(libraries), env.get("LD_LIBRARY_PATH", "")]
        env["LD_LIBRARY_PATH"] = os.pathsep.join(p for p in paths if p)
    return env
