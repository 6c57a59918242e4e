"""A Hugging Face directory → the directory of its OpenVINO conversion, made once by optimum-intel and kept."""

import hashlib
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

import vllm_weights


def converted(path):
    """The conversion of the weights in `path`; WeightsRefused where optimum-intel is not there to make it."""
    target = _home() / f"{path.name}-{_identity(path)}"
    if target.is_dir():
        return target
    if importlib.util.find_spec("optimum") is None or importlib.util.find_spec("optimum.intel") is None:
        raise vllm_weights.WeightsRefused(
            f"'{path}' is a Hugging Face directory, which optimum-intel is to convert first, and the server's "
            "environment has none: write `optimum-intel[openvino]` into requirements.txt beside model.json and serve "
            "again, or convert it yourself: optimum-cli export openvino --model "
            f"{path} --weight-format int8 OUT, and name OUT as 'model'"
        )
    from optimum.exporters.openvino import main_export

    target.parent.mkdir(parents=True, exist_ok=True)
    making = Path(tempfile.mkdtemp(prefix=".making-", dir=target.parent))
    try:
        main_export(str(path), making, task="text-generation-with-past", convert_tokenizer=True)
        if not (making / "openvino_tokenizer.xml").is_file():
            raise vllm_weights.WeightsRefused(
                f"the tokenizer of '{path}' could not be converted: is it there, whole?"
            )
        making.rename(target)
    except OSError:
        if not target.is_dir():  # else another instance was faster
            raise
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return target


def _home():
    base = os.environ.get("XDG_CACHE_HOME")
    return (
        (Path(base) if base and Path(base).is_absolute() else Path.home() / ".cache")
        / "tritonsmith"
        / "openvino"
    )


def _identity(path):
    """Of its files' names, sizes and times: reading gigabytes at each load would take longer than it is worth."""
    files = sorted(f for f in path.resolve().iterdir() if f.is_file())
    told = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    return hashlib.sha256(repr(told).encode()).hexdigest()[:16]
