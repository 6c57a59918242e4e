"""The `model` of model.json → the file or directory that OpenVINO GenAI loads, and the context that it was made for."""

import json
import math
import os
import struct
from collections import namedtuple
from pathlib import Path

Weights = namedtuple("Weights", ["path", "context_length"])
"""context_length: in tokens; None where the files do not say."""

# What openvino_genai reads GGUF files of (src/cpp/src/gguf_utils).
ARCHITECTURES = ("llama", "qwen2", "qwen3")
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
# Number of a type of tensor that is read → (values in a block, bytes of a block); llama.cpp, gguf-py, GGML_QUANT_SIZES.
_BLOCKS = {
    0: (1, 4),
    1: (1, 2),
    2: (32, 18),
    3: (32, 20),
    8: (32, 34),
    12: (256, 144),
    14: (256, 210),
    30: (1, 2),
}


class WeightsRefused(Exception):
    """There are no weights that could be loaded; the message says where and why."""


def find(model, version_dir, available_bytes=None):
    """(`model`, the directory of model.json, memory to be had) → Weights; WeightsRefused else."""
    path = _place(Path(os.fsdecode(model.encode())), Path(version_dir))
    if not path.exists():
        raise WeightsRefused(
            f"model.json: there is no '{path}'; the embedded vllm backend takes 'model' as a path, relative to "
            f"{version_dir} or absolute, of a GGUF file or a directory, and fetches nothing from a hub"
        )
    if path.is_dir():
        path = _in_directory(path)
    is_file = path.is_file()
    context = _gguf_context(path) if is_file else _context_of_config(path)
    size = size_bytes(path)
    if available_bytes is not None and size > available_bytes:
        raise WeightsRefused(
            f"the weights in '{path}' take {size >> 20} MiB and {available_bytes >> 20} MiB of memory are available"
        )
    return Weights(path, context)


def size_bytes(path):
    """Of the weights in a file or directory; a Hugging Face directory that has them in two forms is read in the first."""
    if path.is_file():
        return path.stat().st_size
    kinds = ([f.stat().st_size for f in path.glob(pattern)] for pattern in ("*.safetensors", "*.bin"))
    return sum(next(filter(None, kinds), ()))


def shown(text):
    """A path, or a message with one, as people read it: a stub's own encoding is ASCII, and bytes beyond that are escaped
    in its names of files."""
    return str(text).encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _place(model, version_dir):
    """`/models/chat/1/m.gguf`, as a server in a container sees it, is m.gguf beside model.json where there is no such path:
    NVIDIA's backend takes no path relative to the version directory, so a repository made for it has absolute ones."""
    path = version_dir / model  # which is `model` itself where that is absolute
    if not path.is_absolute() or path.exists() or version_dir.name not in model.parts:
        return path
    after = len(model.parts) - model.parts[::-1].index(version_dir.name)
    beside = version_dir.joinpath(*model.parts[after:])
    return beside if beside != version_dir and beside.exists() else path


def available_memory(meminfo=Path("/proc/meminfo")):
    """Bytes that a process can have without swapping; None where the system does not say."""
    try:
        line = next(line for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable:"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration, ValueError, IndexError):
        return None


def _in_directory(path):
    if (path / "openvino_model.xml").is_file():
        return path
    files = sorted(path.glob("*.gguf"))
    if len(files) == 1:
        return files[0]
    if files:
        raise WeightsRefused(
            f"'{path}' holds several GGUF files; 'model' must name one: {', '.join(f.name for f in files)}"
        )
    if not (path / "config.json").is_file():
        raise WeightsRefused(
            f"'{path}' is no directory of a language model: neither openvino_model.xml, a GGUF file nor config.json"
        )
    return path


def is_hugging_face(path):
    """Whether a directory holds weights that are to be converted first."""
    return path.is_dir() and not (path / "openvino_model.xml").is_file()


def _context_of_config(path):
    try:
        config = json.loads((path / "config.json").read_bytes())
        return int(config["max_position_embeddings"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _gguf_context(path):
    values = _gguf_values(path)
    architecture = values.get("general.architecture")
    if architecture not in ARCHITECTURES:
        raise WeightsRefused(
            f"'{path}' is of the architecture {architecture!r}; the embedded vllm backend runs GGUF files of "
            + ", ".join(ARCHITECTURES)
        )
    context = values.get(f"{architecture}.context_length")
    return int(context) if context else None


def _gguf_values(path):
    """The file's metadata without its lists (github.com/ggml-org/ggml, docs/gguf.md)."""
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise WeightsRefused(f"'{path}' is not a GGUF file: it does not begin with 'GGUF'")
        try:
            version, tensors, count = _unpack(file, "IQQ")
            if version not in (2, 3):
                raise WeightsRefused(f"'{path}' is GGUF of version {version}; 2 and 3 are read")
            values = dict(_pairs(file, count))
            end, size = _end(file, tensors, values.get("general.alignment", 32)), path.stat().st_size
            if end > size:
                raise WeightsRefused(
                    f"'{path}' is a GGUF file that was cut off: it ends after {size} bytes, and its weights go on to {end}"
                )
            return values
        except (struct.error, ValueError, KeyError, TypeError, ArithmeticError, RecursionError):
            raise WeightsRefused(
                f"'{path}' is a damaged GGUF file: its metadata ends too soon or makes no sense"
            ) from None


def _pairs(file, count):
    for _ in range(count):
        key = _string(file)
        value = _value(file, _unpack(file, "I")[0])
        if value is not None:
            yield key, value


def _end(file, tensors, alignment):
    """Where the last weight ends; where it begins, of a type that is not known."""
    ends = [0]
    for _ in range(tensors):
        _string(file)
        count = math.prod(_unpack(file, f"{_unpack(file, 'I')[0] & 15}Q"))
        kind, begin = _unpack(file, "IQ")
        block, size = _BLOCKS.get(kind, (1, 0))
        ends.append(begin + count // block * size)
    return -(-file.tell() // alignment) * alignment + max(ends) if tensors else 0


def _value(file, kind):
    if kind == _STRING:
        return _string(file)
    if kind != _ARRAY:
        return _unpack(file, _SCALARS[kind])[0]
    inner, count = _unpack(file, "IQ")
    if inner in _SCALARS:
        file.seek(struct.calcsize("<" + _SCALARS[inner]) * count, 1)
    else:
        for _ in range(count):
            _value(file, inner)
    return None


def _string(file):
    length = _unpack(file, "Q")[0]
    raw = file.read(length) if length < 2**27 else b""
    if len(raw) != length:
        raise struct.error
    return raw.decode("utf-8")


def _unpack(file, form):
    form = "<" + form
    return struct.unpack(form, file.read(struct.calcsize(form)))
