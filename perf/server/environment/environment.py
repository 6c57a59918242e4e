"""A locked list of packages → the embedded server's own Python environment, made once, proven, and kept.

It is not the user's: Triton's stubs need numpy < 2 and one of three Pythons, and neither is the user's business.
Beside it lie layers, environments that see its packages and add what the Python models of a repository require.
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tritonsmith.builder.base.errors import ToolError
from tritonsmith.builder.base.files.digest import digest_of_file, digest_of_value
from tritonsmith.builder.base.files.disk import adopt, clear_away, delete_empty, move, take_out
from tritonsmith.builder.base.machine import server_home
from tritonsmith.builder.base.machine.server_home import MARKER
from tritonsmith.builder.base.text.console import activity, note, timed
from tritonsmith.perf.server import embedded
from tritonsmith.perf.server.embedded import MODEL_PATH, Embedded, PythonEnvironment
from tritonsmith.perf.server.environment import canary, interpreter
from tritonsmith.perf.server.environment.interpreter import Interpreter

LOCKED = Path(__file__).with_name("requirements.txt")
# What backends/vllm imports beyond that.
VLLM = Path(__file__).with_name("vllm.txt")
# What converts Hugging Face directories, beside torch, of which each of pip's indexes has wheels of its own.
OPTIMUM = Path(__file__).with_name("optimum.txt")
TORCH = "torch==2.13.0"
HOME_VARIABLE = server_home.HOME_VARIABLE
home = server_home.server_home
# What nvidia-pytriton 0.7.0 holds.
TRITON = "2.51.0"
_MAKING = ".making"
# In the user's pip configuration these say where packages go, which is not theirs to say here.
_PLACES = ("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_PYTHON", "PIP_DRY_RUN", "PYTHONPATH", "PYTHONHOME")
# The user's modules come last, so that no numpy of theirs is found before the environment's own.
_PATH_LINE = (
    f"import os, sys; sys.path.extend(p for p in os.environ.get('{MODEL_PATH}', '').split(os.pathsep) if p)\n"
)

Prove = Callable[[Embedded, PythonEnvironment], None]


@dataclass(frozen=True, slots=True)
class PipOptions:
    """Beyond pip's own configuration: directories of wheels, and whether nothing else is asked."""

    find_links: tuple[str, ...] = ()
    no_index: bool = False

    @property
    def arguments(self) -> list[str]:
        """As pip takes them."""
        found = [f"--find-links={place}" for place in self.find_links]
        return [*found, "--no-index"] if self.no_index else found


@dataclass(frozen=True, slots=True)
class _Marker:
    """Written last, as JSON. It fits as long as the environment holds what it held then.

    No pydantic type: importing that would take a start longer than all the rest here.
    """

    made_from: str
    python: str
    libpython: str | None
    packages: list[str]


def ready(version: str | None = None) -> PythonEnvironment | None:
    """The environment that a server would start with, when it is there; None when it would be made first."""
    own = interpreter.own_version()
    versions = [version] if version else [own] if own else interpreter.VERSIONS
    return next((found for v in versions if (found := _fitting(home() / _name(v), _made_from(v)))), None)


def ensure(options: PipOptions | None = None) -> PythonEnvironment:
    """The environment; made when it is missing, or when it is no longer what it was.

    ToolError when there is no Python for it, pip cannot get the packages, or the disk is full; ServerError when
    tensors do not pass through a server of it unharmed.
    """
    if found := ready():
        return found
    python = interpreter.find()
    if found := ready(python.version):
        return found
    return make(home() / _name(python.version), python, LOCKED, options or PipOptions(), canary.prove)


def make(
    target: Path, python: Interpreter, locked: Path, options: PipOptions, prove: Prove
) -> PythonEnvironment:
    """`locked`, a list with hashes, installed into `target` and proven."""

    def fill(made: PythonEnvironment, lock: int) -> None:
        _virtual_environment(python.path, made, lock)
        (made.site_packages / "tritonsmith.pth").write_text(_PATH_LINE)
        _pip(made, [*options.arguments, *_exactly(locked)], lock)

    what = "the embedded server's Python environment (once; some 100 MB to fetch)"
    wanted = PythonEnvironment(target, python.version, python.libpython)
    return _made(
        wanted,
        _made_from(python.version, locked),
        what,
        fill,
        lambda made: prove(embedded.locate(made), made),
    )


def vllm_layer(
    server: PythonEnvironment,
    options: PipOptions | None = None,
    prove: Prove = canary.prove,
    locked: Path = VLLM,
) -> PythonEnvironment:
    """An environment that sees `server` and holds what our vllm backend imports: locked, with hashes."""

    def fill(made: PythonEnvironment, lock: int) -> None:
        _upon(server, made, lock)
        _pip(made, [*(options or PipOptions()).arguments, *_exactly(locked)], lock)

    return _made(
        _upon_server(server, "vllm", locked),
        _locked_upon(server, locked),
        "the embedded server's environment for language models (once; some 70 MB to fetch, 210 MB on disk)",
        fill,
        lambda made: prove(embedded.locate(server), made),
    )


def vllm_ready() -> PythonEnvironment | None:
    """That layer when it is there; None when it would be made first."""
    server = ready()
    return server and _fitting(_upon_server(server, "vllm", VLLM).root, _locked_upon(server, VLLM))


def optimum_layer(
    vllm: PythonEnvironment,
    options: PipOptions | None = None,
    locked: Path = OPTIMUM,
    torch: str = TORCH,
    imports: str = "optimum.exporters.openvino",
) -> PythonEnvironment:
    """An environment that sees `vllm_layer` and converts Hugging Face directories. No stub runs in it.

    imports: the module that proves it.
    """

    def fill(made: PythonEnvironment, lock: int) -> None:
        _upon(vllm, made, lock)
        given = (options or PipOptions()).arguments
        _pip(made, [*given, torch], lock)
        _pip(made, [*given, *_exactly(locked)], lock)
        with activity("trying it"):
            _run([str(made.python_path), "-E", "-c", f"import {imports}"], lock, "import what was installed")

    return _made(
        _upon_server(vllm, "optimum", locked),
        _locked_upon(vllm, locked),
        "what converts Hugging Face directories for the embedded server (once; 1.1 GB on disk and 300 MB to fetch where "
        "pip's index has torch for CPUs, several GB where it has torch with CUDA)",
        fill,
        lambda made: None,
    )


def optimum_ready() -> PythonEnvironment | None:
    """That layer when it is there."""
    vllm = vllm_ready()
    return vllm and _fitting(_upon_server(vllm, "optimum", OPTIMUM).root, _locked_upon(vllm, OPTIMUM))


def _locked_upon(base: PythonEnvironment, locked: Path) -> str:
    return digest_of_value([str(base.root), base.python, digest_of_file(locked)])


def _upon_server(base: PythonEnvironment, what: str, locked: Path) -> PythonEnvironment:
    name = f"{base.root.name}-{what}-{_locked_upon(base, locked)[:16]}"
    return replace(base, root=home() / "layers" / name)


def layer(
    base: PythonEnvironment,
    requirements: Sequence[str],
    options: PipOptions | None = None,
    prove: Prove = canary.prove,
    server: PythonEnvironment | None = None,
) -> PythonEnvironment:
    """An environment that sees `base` and holds what `requirements` ask beyond it; base itself when they ask nothing.

    server: the environment that the tritonserver is in, where `base` is itself a layer on it. ToolError when pip cannot
    get them, or they contradict one another or the numpy that Triton's stubs need.
    """
    asked = sorted(set(requirements))
    if not asked:
        return base
    made_from = digest_of_value([str(base.root), base.python, asked])

    def fill(made: PythonEnvironment, lock: int) -> None:
        _upon(base, made, lock)
        listed, bound = made.root / "requirements.txt", made.root / "constraints.txt"
        listed.write_text("".join(f"{requirement}\n" for requirement in asked))
        bound.write_text("numpy<2\n")
        _pip(made, [*(options or PipOptions()).arguments, "-r", str(listed), "-c", str(bound)], lock)

    what = f"the server's environment for {', '.join(asked)}"
    wanted = replace(base, root=home() / "layers" / f"{base.root.name}-{made_from[:16]}")
    return _made(wanted, made_from, what, fill, lambda made: prove(embedded.locate(server or base), made))


def _name(version: str, locked: Path = LOCKED) -> str:
    return f"triton-{TRITON}-python-{version}-{_made_from(version, locked)[:16]}"


def _made_from(version: str, locked: Path = LOCKED) -> str:
    return digest_of_value([TRITON, version, digest_of_file(locked)])


def _fitting(root: Path, made_from: str) -> PythonEnvironment | None:
    try:
        marker = _Marker(**json.loads((root / MARKER).read_bytes()))
        libpython = Path(marker.libpython) if marker.libpython is not None else None
        found = PythonEnvironment(root, marker.python, libpython)
        fits = (
            marker.made_from == made_from
            and marker.packages == _packages(found)
            # The Python that it was made from may have been removed since.
            and found.python_path.exists()
            and (libpython is None or libpython.exists())
        )
    except (OSError, ValueError, TypeError):
        return None
    return found if fits else None


def _packages(made: PythonEnvironment) -> list[str]:
    return sorted(path.name for path in made.site_packages.glob("*.dist-info"))


def _made(
    wanted: PythonEnvironment,
    made_from: str,
    what: str,
    fill: Callable[[PythonEnvironment, int], None],
    prove: Callable[[PythonEnvironment], None],
) -> PythonEnvironment:
    """`wanted` as it is when it fits; else filled beside it, proven, marked and renamed: never seen half made."""
    target = wanted.root
    if found := _fitting(target, made_from):
        return found
    with _locked(target.parent) as lock:
        if found := _fitting(target, made_from):
            return found
        note(f"making {what} in {target}")
        making = target.parent / _MAKING
        making.mkdir(exist_ok=True)
        adopt(making)
        made = replace(wanted, root=making / target.name)
        try:
            _clear(making)  # what was killed; who makes one now holds the lock
            fill(made, lock)
            with activity("trying the environment with a throw-away server"):
                prove(made)
            marker = _Marker(
                made_from=made_from,
                python=made.python,
                libpython=None if made.libpython is None else str(made.libpython),
                packages=_packages(made),
            )
            (made.root / MARKER).write_text(json.dumps(asdict(marker), indent=2) + "\n")
            if target.exists():
                take_out(target.parent, target.name, making)
            move(made.root, target.parent, target.name)
        finally:
            _clear(making)
            with suppress(OSError):
                delete_empty(making)
    return wanted


def _clear(making: Path) -> None:
    for left in making.iterdir():
        clear_away(left)


@contextmanager
def _locked(directory: Path) -> Iterator[int]:
    """The only right to make environments here; the descriptor that holds it.

    A child process that inherits the descriptor holds the lock, too: should this process be killed, nobody else
    begins before its pip has ended.
    """
    directory.mkdir(parents=True, exist_ok=True)
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            note(f"waiting for another process that makes an environment in {directory}")
            with activity("waiting for it"):
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    finally:
        os.close(handle)


def _virtual_environment(python: Path, wanted: PythonEnvironment, lock: int) -> None:
    without = ["--without-pip"] if interpreter.own_pip() else []
    command = [str(python), "-I", "-m", "venv", *without, str(wanted.root)]
    with activity("making a virtual environment"):
        _run(command, lock, "make a virtual environment")


def _upon(base: PythonEnvironment, made: PythonEnvironment, lock: int) -> None:
    """A virtual environment that sees the packages of `base`, too; its own come first."""
    _virtual_environment(base.python_path, made, lock)
    line = f"import site; site.addsitedir({str(base.site_packages)!r})\n"
    (made.site_packages / "tritonsmith.pth").write_text(line)


def _exactly(locked: Path) -> list[str]:
    """pip's arguments for a list with hashes, and nothing that it does not list."""
    return ["--require-hashes", "--no-deps", "--only-binary=:all:", "-r", str(locked)]


def _pip(into: PythonEnvironment, arguments: Sequence[str], lock: int) -> None:
    here, there = interpreter.own_pip(), str(into.python_path)
    command = [*here, "--python", there] if here else [there, "-I", "-m", "pip"]
    quiet = ["--quiet", "--no-input", "--disable-pip-version-check", "--progress-bar=off"]
    with activity("fetching and installing its packages"):
        _run([*command, "install", *quiet, *arguments], lock, "install packages")


def _run(command: list[str], lock: int, what: str) -> None:
    env = {k: v for k, v in os.environ.items() if k not in _PLACES}
    env["PIP_USER"] = "0"
    with timed(shlex.join(command)):
        done = subprocess.run(
            command,
            env=env,
            capture_output=True,
            text=True,
            pass_fds=(lock,),
            stdin=subprocess.DEVNULL,
            check=False,
        )
    if done.returncode != 0:
        raise _failure(what, done.stdout + done.stderr)


def _failure(what: str, output: str) -> ToolError:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    said = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")] or lines[-1:]
    message = f"could not {what} for the embedded server"
    if full := [line for line in lines if "No space left on device" in line or "Disk quota exceeded" in line]:
        return ToolError(
            f"{message}: the disk is full",
            code="disk_full",
            seen=full[-1],
            fix=f"free 500 MB at {home()} (2 GB with optimum), or name another place in {HOME_VARIABLE}; then the same "
            "command again",
        )
    if any("ResolutionImpossible" in line or "conflicting dependencies" in line for line in lines):
        asked = [line for line in lines if line.startswith(("The user requested", "The conflict", "    "))]
        return ToolError(
            "the requirements of the repository's Python models contradict one another, or the numpy < 2 of "
            "Triton's Python stubs",
            code="requirements_conflict",
            seen=" ".join(said),
            details=asked,
            fix="change `requirements:` in models.yaml, then tritonsmith build",
        )
    return ToolError(
        message,
        code="server_install",
        seen=" ".join(said) or None,
        fix="offline: tritonsmith server install --no-index --find-links DIR, a directory of wheels; "
        "else look at pip's configuration (pip config debug) and try again",
    )
