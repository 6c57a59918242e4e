"""A Hugging Face directory → the directory of its OpenVINO conversion, made once by optimum-intel and kept.

    python vllm_convert.py wanted VERSION_DIRECTORY …                  what is still to be converted to serve these, as JSON
    python vllm_convert.py convert [--trust-remote-code] DIRECTORY     converts; with the Python that has optimum-intel

Whoever starts a server runs both before; a model that is loaded later has the second run as it is loaded.
"""

import ctypes
import fcntl
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import vllm_arguments
import vllm_weights

# The Python that has optimum-intel; whoever starts the server says it.
CONVERTER = "TRITONSMITH_CONVERTER"
_MAKING = ".making-"
_DIGESTS = ".digests.json"
# Tokenizer, configuration and OpenVINO's graph, beside the weights.
_BESIDE_BYTES = 64 << 20
# A file may be written twice within one tick of the file system's clock.
_SETTLED_NS = 2_000_000_000
_REVISION = 1


def converted(path, trust_remote_code, log):
    """The conversion of the weights in `path`, made when it is not there; WeightsRefused where it cannot be.

    log: takes a line.
    """
    target = place_of(path)
    if target.is_dir():
        return target
    python = os.environ.get(CONVERTER)
    if not python:
        raise vllm_weights.WeightsRefused(
            f"'{path}' is a Hugging Face directory, which optimum-intel is to convert first, and it is not there: "
            "tritonsmith server install --with optimum, then serve again"
        )
    log(f"[vllm] converting '{vllm_weights.shown(path)}' for OpenVINO, once")
    began = time.monotonic()
    # A stub's own encoding may be ASCII, and what the converter prints is not.
    done = subprocess.run(command(python, path, trust_remote_code), capture_output=True)
    if done.returncode != 0 or not target.is_dir():
        why = said(done.stderr.decode("utf-8", "replace"))
        raise vllm_weights.WeightsRefused(why or f"the conversion ended with {done.returncode}")
    log(f"[vllm] converted in {time.monotonic() - began:.0f} s, kept in '{target}'")
    return target


def command(python, path, trust_remote_code):
    """What converts `path`. -E: modules of the user's are none of the converter's."""
    trust = ["--trust-remote-code"] if trust_remote_code else []
    return [str(python), "-E", __file__, "convert", *trust, str(path)]


def said(errors):
    """The last line of a conversion's stderr, which says why it ended."""
    lines = [line for line in errors.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def trusts_remote_code(arguments):
    """Whether model.json lets code that lies beside the weights run, as vLLM does then, too."""
    return str(arguments.get("trust_remote_code", False)).lower() == "true"


def place_of(path):
    """Where the conversion of `path` is kept, by the content of its files and the OpenVINO that is to load it."""
    home, name = _home(), re.sub(rb"[^A-Za-z0-9_.-]", b"_", os.fsencode(path.resolve().name)).decode()
    known = _read_digests(home)
    files = sorted(f for f in path.resolve().iterdir() if f.is_file() and not f.name.startswith("."))
    told = [(os.fsencode(file.name), _digest(file, known)) for file in files]
    _write_digests(home, known)
    tool = importlib.metadata.version("openvino-tokenizers")
    identity = hashlib.sha256(repr((_REVISION, tool, told)).encode()).hexdigest()[:16]
    return home / f"{name}-{identity}"


def wanted(version_dirs):
    """[(directory, whether its code may run)] that are still to be converted before these versions can be served."""
    found = []
    for version_dir in map(Path, version_dirs):
        try:
            arguments = json.loads((version_dir / "model.json").read_bytes())
            vllm_arguments.settings_from(arguments, 1)
            path = vllm_weights.find(arguments["model"], version_dir).path
        except (OSError, ValueError, TypeError, vllm_arguments.ArgumentRefused, vllm_weights.WeightsRefused):
            continue  # told when the model is loaded
        if vllm_weights.is_hugging_face(path) and not place_of(path).is_dir():
            found.append((str(path), trusts_remote_code(arguments)))
    return sorted(set(found))


def convert(path, trust_remote_code):
    """The conversion's directory; WeightsRefused where there is no room, or optimum-intel cannot."""
    target = place_of(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _alone(target.parent):
        if target.is_dir():  # another server was faster
            return target
        # Of one that was killed: who makes one now holds the lock.
        for left in target.parent.glob(f"{_MAKING}*"):
            shutil.rmtree(left, ignore_errors=True)
        _refuse_without_room(path, target.parent)
        making = Path(tempfile.mkdtemp(prefix=_MAKING, dir=target.parent))
        try:
            _export(path, making, trust_remote_code)
            _sync(making)
            making.rename(target)
        finally:
            shutil.rmtree(making, ignore_errors=True)
    return target


def _export(path, into, trust_remote_code):
    try:
        from optimum.exporters.openvino import main_export
        from optimum.intel.openvino import OVConfig

        main_export(
            str(path),
            into,
            task="text-generation-with-past",
            library_name="transformers",
            convert_tokenizer=True,
            trust_remote_code=trust_remote_code,
            local_files_only=True,
            # Without one, weights of more than a thousand million parameters would be quantised to 8 bits unasked.
            ov_config=OVConfig(),
        )
    except Exception as error:
        first = str(error).strip().partition("\n")[0]
        raise vllm_weights.WeightsRefused(
            f"optimum-intel could not convert '{path}': {type(error).__name__}: {first}"
        ) from error
    for name, what in (("openvino_model", "weights"), ("openvino_tokenizer", "tokenizer")):
        if not (into / f"{name}.xml").is_file():
            raise vllm_weights.WeightsRefused(
                f"the {what} of '{path}' could not be converted: is it there, whole?"
            )


def _refuse_without_room(path, parent):
    needed, free = vllm_weights.size_bytes(path) + _BESIDE_BYTES, shutil.disk_usage(parent).free
    if free < needed:
        raise vllm_weights.WeightsRefused(
            f"the conversion of '{path}' takes some {needed >> 20} MiB in '{parent}', and {free >> 20} MiB are free there: "
            "make room, or name another directory in TRITONSMITH_CACHE"
        )
    memory = vllm_weights.available_memory()
    if memory is not None and memory < needed:
        raise vllm_weights.WeightsRefused(
            f"the conversion of '{path}' holds its weights, {needed >> 20} MiB, in memory, and {memory >> 20} MiB are "
            "available: convert it on a larger machine (optimum-cli export openvino), and name the result as 'model'"
        )


@contextmanager
def _alone(directory):
    """The only right to convert into it: of two servers the second waits, and finds what the first made."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _sync(directory):
    """A machine that stops now must not leave a conversion that looks whole."""
    for file in directory.iterdir():
        with file.open("rb") as content:
            os.fsync(content.fileno())


def _home():
    override, base = os.environ.get("TRITONSMITH_CACHE"), os.environ.get("XDG_CACHE_HOME")
    if override:
        return Path(override).absolute() / "openvino"
    cache = Path(base) if base and Path(base).is_absolute() else Path.home() / ".cache"
    return cache / "tritonsmith" / "openvino"


def _digest(file, known):
    """sha256, remembered for as long as the file's stat stays: gigabytes are not read again at each load."""
    stat = file.stat()
    mark = [stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
    entry = known.get(str(file))
    if isinstance(entry, list) and entry[:-1] == mark:
        return entry[-1]
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while block := content.read(1 << 20):
            digest.update(block)
    if time.time_ns() - max(stat.st_mtime_ns, stat.st_ctime_ns) > _SETTLED_NS:
        known[str(file)] = [*mark, digest.hexdigest()]
    return digest.hexdigest()


def _read_digests(home):
    try:
        known = json.loads((home / _DIGESTS).read_bytes())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _write_digests(home, known):
    """What is lost to another writer, or where nothing can be written, is read again."""
    if known == _read_digests(home):
        return
    try:
        home.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=_DIGESTS, dir=home)
    except OSError:
        return
    try:
        with os.fdopen(handle, "w") as file:
            json.dump({path: mark for path, mark in known.items() if Path(path).exists()}, file)
        Path(name).replace(home / _DIGESTS)
    except OSError:
        Path(name).unlink(missing_ok=True)


def _end_with_parent():
    """A server that is killed takes its conversion along; prctl's PR_SET_PDEATHSIG is 1."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(1)


def main(task, *rest):
    if task == "wanted":
        print(json.dumps(wanted(rest)))
        return
    _end_with_parent()
    *flags, path = rest
    try:
        print(convert(Path(path), "--trust-remote-code" in flags))
    except (vllm_weights.WeightsRefused, OSError) as refused:
        sys.exit(str(refused))


if __name__ == "__main__":
    main(*sys.argv[1:])
