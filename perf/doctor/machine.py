"""This machine → Checks: what of the basic work it can do, what it lacks, and the command that mends each."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

State = Literal["ok", "missing", "optional"]

_LEAST_CACHE_BYTES = 2 << 30
_LEAST_SHM_BYTES = 256 << 20
_LEAST_OPEN_FILES = 1024
_USUAL_PORTS = (8000, 8001, 8002)


@dataclass(frozen=True, slots=True)
class Check:
    """One line. state: `ok`; `missing`, without which the basic work stops; `optional`, without which it does not."""

    name: str
    state: State
    seen: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """What the checks look at. spec: a models.yaml whose `target:` counts, when it is there."""

    environ: Mapping[str, str]
    spec: Path


Finding = tuple[bool, str, str]
"""(whether it is there, what was seen, the command that mends it)"""
Look = Callable[[Machine], Finding]


@dataclass(frozen=True, slots=True)
class Row:
    """One check: its name, whether the basic work (build, check, serve, load, sweep on a CPU) needs it, and the look."""

    name: str
    required: bool
    look: Look


def checks(machine: Machine, rows: Sequence[Row] | None = None) -> tuple[Check, ...]:
    """One Check a row, in order; a look that raises is a line of its own and stops no other."""
    return tuple(_checked(row, machine) for row in (ROWS if rows is None else rows))


def _checked(row: Row, machine: Machine) -> Check:
    lacking: State = "missing" if row.required else "optional"
    try:
        there, seen, fix = row.look(machine)
    except Exception as error:  # whatever one look meets, the others still say what they see
        return Check(row.name, lacking, f"could not be looked at: {type(error).__name__}: {error}")
    return Check(row.name, "ok", seen) if there else Check(row.name, lacking, seen, fix)


def text_of(found: Sequence[Check], width: int | None) -> str:
    """The table, each line with its fix, and a last line that says what is missing."""
    from tritonsmith.builder.base.text.text_layout import table

    rows = [(c.name, c.state, c.seen + (f"; fix: {c.fix}" if c.fix else "")) for c in found]
    missing = [c.name for c in found if c.state == "missing"]
    verdict = (
        f"missing for the basic work: {', '.join(missing)}"
        if missing
        else "all that the basic work needs is here"
    )
    return "\n".join([*table(rows, width, text=2), verdict])


def _python(machine: Machine) -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    fits = (3, 10) <= sys.version_info[:2] <= (3, 14)
    return fits, f"{version}, {sys.executable}", "Python 3.10 to 3.14: uv python install 3.12"


def _platform(machine: Machine) -> Finding:
    from tritonsmith.perf.server import preflight

    seen = preflight.observe(machine.environ)
    for problem in preflight.problems(seen):
        if problem.code != "shm_full":  # has a line of its own
            return False, f"{problem.message} ({problem.seen})", problem.fix or ""
    glibc = "no glibc" if seen.glibc is None else "glibc " + ".".join(map(str, seen.glibc))
    return True, f"{seen.system} {seen.machine}, {glibc}", ""


def _libpython(machine: Machine) -> Finding:
    from tritonsmith.builder.base.errors import ToolError
    from tritonsmith.perf.server.environment import environment, interpreter

    if (made := environment.ready()) is not None:
        return True, f"{made.libpython or 'the system loader finds it'} (Python {made.python})", ""
    try:
        found = interpreter.find(machine.environ)
    except ToolError as error:
        return False, str(error.seen), error.fix or ""
    return True, f"{found.libpython or 'the system loader finds it'} (Python {found.version})", ""


def _server(machine: Machine) -> Finding:
    from tritonsmith.perf.server.environment import environment

    found = environment.ready()
    if found is None:
        return (
            False,
            f"tritonserver {environment.TRITON} is not made yet",
            "the first serve makes it; tritonsmith server install",
        )
    return True, f"tritonserver {environment.TRITON}; where it lies: tritonsmith server status", ""


def _onnxruntime(machine: Machine) -> Finding:
    version = _version("onnxruntime") or _version("onnxruntime-gpu")
    if importlib.util.find_spec("onnxruntime") is None or version is None:
        return False, "not installed", "pip install onnxruntime"
    both = _version("onnxruntime") and _version("onnxruntime-gpu")
    if both:
        return (
            False,
            "onnxruntime and onnxruntime-gpu are both installed and overwrite one another's files",
            "pip uninstall onnxruntime onnxruntime-gpu, then install one of them",
        )
    import onnxruntime

    listed = onnxruntime.get_available_providers()
    loads = [name for name in listed if _provider_loads(name)]
    said = ", ".join(name if name in loads else f"{name} (listed, does not load)" for name in listed)
    return "CPUExecutionProvider" in loads, f"{version}: {said}", "pip install --force-reinstall onnxruntime"


def _provider_loads(name: str) -> bool:
    """Whether a session really runs on it: what is only listed may lack its libraries, and falls back silently."""
    if name == "CPUExecutionProvider":
        return True
    import onnxruntime
    from onnx import TensorProto, helper

    tensor = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", [tensor], [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=[name])
    except Exception:  # onnxruntime raises classes of its own that only its C module names
        return False
    return name in session.get_providers()


def _package(name: str, fix: str) -> Look:
    def look(machine: Machine) -> Finding:
        version = _version(name)
        return version is not None, version or "not installed", fix

    return look


def _gpus(machine: Machine) -> Finding:
    from tritonsmith.builder.base.machine.cuda import gpus

    found, why = gpus()
    if not found:
        return False, why, "TensorRT engines and the CUDA provider need an NVIDIA GPU and its driver"
    from tritonsmith.perf.doctor.gpu_check.steps.nvidia import driver_version

    driver = driver_version() or "of unknown version"
    names = "; ".join(f"{g.name}, {g.compute_capability}, {g.memory_bytes >> 20} MiB" for g in found)
    return True, f"{names}; driver {driver}", ""


def _driver(machine: Machine) -> Finding:
    if not machine.spec.is_file():
        return True, f"no {machine.spec} here, so no target to hold the driver against", ""
    from tritonsmith.builder.base.machine.releases import releases
    from tritonsmith.builder.plan.targets import serving_target
    from tritonsmith.builder.spec.spec import load_spec
    from tritonsmith.perf.doctor.gpu_check.steps.nvidia import driver_version

    release = serving_target(load_spec(machine.spec).target).target.release
    if release is None:
        return True, f"{machine.spec} names no `target: {{triton: …}}`", ""
    least = releases()[release]["min_driver"]
    driver = driver_version()
    if driver is None:
        return False, f"Triton {release} needs driver {least or '?'}; none is here", "install NVIDIA's driver"
    if not least:
        return True, f"driver {driver}; what Triton {release} needs is not in the table", ""
    fits = int(driver.split(".")[0]) >= int(least.split(".")[0])
    return fits, f"driver {driver}; Triton {release} needs {least}", f"install driver {least} or newer"


def _docker(machine: Machine) -> Finding:
    found = shutil.which("docker", path=machine.environ.get("PATH"))
    if found is None:
        return False, "not in PATH", "install Docker, for --launch docker:IMAGE"
    ask = [found, "version", "--format", "{{.Server.Version}}"]
    try:
        told = subprocess.run(
            ask, capture_output=True, text=True, timeout=_DOCKER_S, env=dict(machine.environ), check=False
        )
    except subprocess.TimeoutExpired:
        return False, f"{found}: no answer in {_DOCKER_S:g} s", "docker info"
    if told.returncode:
        said = told.stderr.strip().rpartition("\n")[2][:100]
        return False, f"{found}, but no engine: {said}", "start it, for --launch docker:IMAGE: docker info"
    return True, f"engine {told.stdout.strip()}, {found}", ""


_DOCKER_S = 3.0


_CREDENTIALS = {
    "s3": ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE", ".aws/credentials"),
    "gs": ("GOOGLE_APPLICATION_CREDENTIALS", ".config/gcloud/application_default_credentials.json"),
    "az": ("AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_CLIENT_ID"),
}
_STORE_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs"}


def _stores(machine: Machine) -> Finding:
    """Which of the object stores have credentials and a client; only names are said, never a value."""
    home = Path(machine.environ.get("HOME") or Path.home())
    found = []
    for scheme, places in _CREDENTIALS.items():
        named = [p for p in places if machine.environ.get(p) or ("/" in p and (home / p).is_file())]
        if named:
            client = importlib.util.find_spec(_STORE_PACKAGES[scheme]) is not None
            found.append(
                f"{scheme} by {named[0]}" + ("" if client else f", without {_STORE_PACKAGES[scheme]}")
            )
    lacking = [line for line in found if "without" in line]
    seen = "; ".join(found) or "no credentials in the environment or the usual files"
    scheme = lacking[0].split()[0] if lacking else "s3"
    fix = f"pip install 'tritonsmith[{scheme}]'" if lacking else "only shared caches and publishing need some"
    return bool(found) and not lacking, seen, fix


def _remote_cache(machine: Machine) -> Finding:
    from tritonsmith.builder.base.files.store_url import check_store_url
    from tritonsmith.builder.commands.options import REMOTE_CACHE

    url = machine.environ.get(REMOTE_CACHE)
    if not url:
        return True, f"{REMOTE_CACHE} is not set: the cache is this machine's alone", ""
    scheme = url.partition("://")[0] if "://" in url else "file"
    check_store_url(url)
    return True, f"{REMOTE_CACHE} names a {scheme} store, well formed (not asked)", ""


def _cache(machine: Machine) -> Finding:
    from tritonsmith.builder.cache.cache import default_cache_directory

    return _directory(default_cache_directory(), _LEAST_CACHE_BYTES, "TRITONSMITH_CACHE")


def _directory(path: Path, least_bytes: int, variable: str) -> Finding:
    there = next(place for place in (path, *path.parents) if place.exists())
    free = shutil.disk_usage(there).free
    fix = f"free space or permissions, or name another place in {variable}"
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        return False, f"{path} cannot be written", fix
    return free >= least_bytes, f"{path}, {_size(free)} free", fix


def _shm(machine: Machine) -> Finding:
    place = Path("/dev/shm")  # noqa: S108
    if not place.is_dir():
        return False, "no /dev/shm", "mount -t tmpfs -o size=1g tmpfs /dev/shm"
    use = shutil.disk_usage(place)
    fix = "in a container: --shm-size=1g; elsewhere: mount -o remount,size=1g /dev/shm"
    return use.free >= _LEAST_SHM_BYTES, f"{place}, {_size(use.total)}, {_size(use.free)} free", fix


def _open_files(machine: Machine) -> Finding:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    said = f"{soft} (hard limit {hard})"
    return soft == resource.RLIM_INFINITY or soft >= _LEAST_OPEN_FILES, said, f"ulimit -n {_LEAST_OPEN_FILES}"


def _ports(machine: Machine) -> Finding:
    taken = [str(port) for port in _USUAL_PORTS if not is_free(port)]
    if taken:
        return False, f"in use: {', '.join(taken)}", "tritonsmith serve --http-port 0 takes a free one"
    return True, ", ".join(map(str, _USUAL_PORTS)) + " are free", ""


def is_free(port: int) -> bool:
    """Whether nobody listens there on this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen(1)
        except OSError:
            return False
    return True


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _size(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 30):.1f} GiB"


ROWS: tuple[Row, ...] = (
    Row("Python", True, _python),
    Row("platform", True, _platform),
    Row("libpython", True, _libpython),
    Row("embedded server", False, _server),
    Row("ONNX Runtime", True, _onnxruntime),
    Row("cache", True, _cache),
    Row("shared memory", True, _shm),
    Row("open files", True, _open_files),
    Row("ports", False, _ports),
    Row("torch", False, _package("torch", "pip install 'tritonsmith[torch]', for torch sources")),
    Row("GPUs", False, _gpus),
    Row("driver", False, _driver),
    Row("TensorRT", False, _package("tensorrt", "pip install 'tritonsmith[tensorrt]', for engines")),
    Row("TensorRT-RTX", False, _package("tensorrt-rtx", "pip install 'tritonsmith[rtx]', for proofs")),
    Row("NVML", False, _package("nvidia-ml-py", "pip install nvidia-ml-py, for GPU memory and energy")),
    Row("Docker", False, _docker),
    Row("object stores", False, _stores),
    Row("shared cache", False, _remote_cache),
)
