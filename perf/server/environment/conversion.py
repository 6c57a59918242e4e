"""Model repositories → their Hugging Face directories, converted before a server starts, and what converts later ones."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from tritonsmith.builder.base.errors import ToolError
from tritonsmith.builder.base.text.console import activity, note
from tritonsmith.builder.base.text.quantities import text_of_bytes
from tritonsmith.builder.lint.read.model import read_model
from tritonsmith.perf.server.embedded import OUR_BACKENDS, PythonEnvironment
from tritonsmith.perf.server.environment import environment

# Read by backends/vllm/vllm_convert.py.
CONVERTER = "TRITONSMITH_CONVERTER"
_PROGRAM = OUR_BACKENDS / "vllm" / "vllm_convert.py"


def convert_ahead(
    repositories: Sequence[Path], models: Collection[str] | None, layer: PythonEnvironment
) -> dict[str, str]:
    """The server's variables that name the converter, once all directories that `models` serve are converted.

    models: None for all. layer: environment.vllm_layer. ToolError: no converter, no room, or weights that cannot be
    converted.
    """
    versions = list(_served(repositories, models))
    wanted = json.loads(_run(layer, "wanted", *versions)) if versions else []
    converter = environment.optimum_ready()
    if wanted and converter is None:
        raise _no_converter(wanted[0][0])
    for directory, trusted in wanted:
        assert converter is not None
        began = time.monotonic()
        with activity(f"converting {directory} for OpenVINO (once)"):
            flags = ["--trust-remote-code"] if trusted else []
            kept = _run(converter, "convert", *flags, directory).strip()
        size = sum(file.stat().st_size for file in Path(kept).iterdir())
        note(
            f"{directory} was converted for OpenVINO in {time.monotonic() - began:.0f} s: "
            f"{text_of_bytes(size)} in {kept}"
        )
    return {} if converter is None else {CONVERTER: str(converter.python_path)}


def _served(repositories: Sequence[Path], models: Collection[str] | None) -> Iterator[str]:
    """Directories of the versions that the version policies of vLLM's models serve: older ones are kept to go back to."""
    for repository in repositories:
        for directory in sorted({file.parent.parent for file in repository.glob("*/[0-9]*/model.json")}):
            model = read_model(directory)
            if (models is None or model.name in models) and model.config and model.config.backend == "vllm":
                yield from (
                    str(version.path) for version in model.selected if "model.json" in version.entries
                )


def _run(python: PythonEnvironment, task: str, *arguments: str) -> str:
    """What the program prints; ToolError with the last line of its stderr."""
    command = [str(python.python_path), "-E", str(_PROGRAM), task, *arguments]
    done = subprocess.run(
        command, env=os.environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return done.stdout
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    raise ToolError(
        lines[-1] if lines else f"{task} ended with {done.returncode}",
        code="conversion",
        seen=arguments[-1] if arguments else None,
        fix="or serve a GGUF file of the same model, which needs no conversion",
    )


def _no_converter(directory: str) -> ToolError:
    return ToolError(
        "the embedded server runs a Hugging Face directory once optimum-intel has converted it for OpenVINO, and that is not "
        "installed: with torch 1.1 GB on disk, more where pip's index has torch with CUDA alone",
        code="optimum_missing",
        seen=directory,
        fix="tritonsmith server install --with optimum; or serve a GGUF file of the same model, which needs none of it",
    )
