"""Model repositories → what their models need in the server's Python beyond what it has."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from tritonsmith.builder.base.text.console import note

FILE = "requirements.txt"
_VLLM = re.compile(r"""^[^#\n]*\bbackend\s*:\s*["']vllm["']""", re.MULTILINE)
# pip takes a name that ends so for a file beside it.
# NVIDIA's names; each brings the module `tensorrt`.
_TENSORRT = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")
_CUDNN = ("nvidia-cudnn-cu13", "nvidia-cudnn-cu12")
_ARCHIVES = (".whl", ".zip", ".tar", ".gz", ".bz2", ".xz", ".tgz", ".tbz", ".txz", ".tlz", ".lz", ".lzma")


def requirements_of(repositories: Sequence[Path]) -> tuple[str, ...]:
    """Every requirement once, in pip's words: of the files beside Python models, and of this machine's GPU packages.

    What is no name and version (pip's options, paths, addresses) is told of and left out: nobody but the user says
    where packages come from.
    """
    found: dict[str, None] = {}
    for repository in repositories:
        for path in sorted(repository.glob(f"*/[0-9]*/{FILE}")):
            found.update(dict.fromkeys(_lines(path)))
    return (*found, *_gpu_packages(repositories))


def has_vllm_models(repositories: Sequence[Path]) -> bool:
    """Whether a model of theirs names the backend `vllm`."""
    return any(
        _VLLM.search(path.read_text(encoding="utf-8", errors="replace"))
        for repository in repositories
        for path in repository.glob("*/config.pbtxt")
    )


def _lines(path: Path) -> Iterator[str]:
    text = path.read_text(encoding="utf-8", errors="replace")
    for number, line in enumerate(text.splitlines(), 1):
        requirement = line.partition(" #")[0].strip()
        if not requirement or requirement.startswith("#"):
            continue
        try:
            parsed = Requirement(requirement)
        except InvalidRequirement:
            parsed = None
        if parsed is not None and parsed.url is None and not parsed.name.lower().endswith(_ARCHIVES):
            yield requirement
        else:
            note(f"warning: {path}:{number}: not a package's name and version, left out: {requirement!r}")


def _gpu_packages(repositories: Sequence[Path]) -> Iterator[str]:
    """ONNX Runtime with CUDA and TensorRT, in the user's own versions: an engine loads in the TensorRT that made it."""
    if version := _version("onnxruntime-gpu"):
        # CUDA and cuDNN come with it where they came as wheels here; else the system has them for both.
        extras = "[cuda,cudnn]" if any(map(_version, _CUDNN)) else ""
        yield f"onnxruntime-gpu{extras}=={version}"
    has_plans = any(next(iter(r.glob("*/[0-9]*/*.plan")), None) for r in repositories)
    found = ((name, version) for name in _TENSORRT if (version := _version(name)))
    if has_plans and (package := next(found, None)):
        yield "==".join(package)


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
