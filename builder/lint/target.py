"""`26.08`, `26.08-trtllm-python-py3` and a server's own flags → Target: what a repository must load on."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from tritonsmith.builder.base.errors import UsageError, unknown
from tritonsmith.builder.base.machine.releases import IMAGES, releases

# Repository agents in NVIDIA's images. Source: triton-inference-server/checksum_repository_agent, its README.
KNOWN_AGENTS = frozenset({"checksum"})


@dataclass(frozen=True, slots=True)
class Target:
    """Where the repository is to be served; what is None is not known and not judged.

    release:  Triton container release, `26.08`.
    image:    the image name behind the release; image_stated: somebody said so, it is not the usual one.
    gpus:     number of GPUs.
    tensorrt: TensorRT version of the image, `10.16`.
    compute_capability: of the target's GPUs, `9.0`.
    gpu_memory_bytes: of one GPU.
    server_args: the server's own flags; an empty mapping means that it is started without any.
    """

    release: str | None = None
    image: str = "py3"
    gpus: int | None = None
    tensorrt: str | None = None
    compute_capability: str | None = None
    gpu_memory_bytes: int | None = None
    server_args: Mapping[str, tuple[str, ...]] | None = None
    image_stated: bool = False

    @property
    def backends(self) -> frozenset[str] | None:
        """Backends in the image; None when no release is given."""
        return IMAGES.get(self.image) if self.release is not None else None

    @property
    def onnxruntime(self) -> str | None:
        """ONNX Runtime's version in that release, `1.24.4`."""
        row = releases().get(self.release or "")
        return (row["onnxruntime"] or None) if row else None

    def flag(self, name: str) -> tuple[str, ...]:
        """Values that the server is started with for `--name`; empty when the flag is absent or unknown."""
        return (self.server_args or {}).get(name, ())

    def is_on(self, name: str) -> bool:
        """Whether the boolean flag `--name` is given, bare or as true."""
        values = (self.server_args or {}).get(name)
        return values is not None and (not values or values[-1].lower() in ("", "true", "1"))


def target_from_text(text: str) -> Target:
    """`26.08` or `26.08-IMAGE` → Target. UsageError names the nearest valid value."""
    release, _, image = text.partition("-")
    if release not in releases():
        raise UsageError(
            f"no Triton release {release!r} is known",
            code="unknown_release",
            **unknown(release, releases()),
        )
    if image and image not in IMAGES:
        raise UsageError(
            f"no image {image!r} of Triton is known",
            code="unknown_image",
            seen=text,
            valid=tuple(f"{release}-{name}" for name in IMAGES),
        )
    return Target(release=release, image=image or "py3", image_stated=bool(image))


def target_of_backend(target: Target, backend: str) -> Target:
    """The target whose image nobody stated, as a model of this backend means it: NVIDIA's images have vllm and tensorrtllm
    apart from all others."""
    own = next((name for name, has in IMAGES.items() if backend in has), None)
    apart = target.backends is not None and backend not in target.backends and own is not None
    return replace(target, image=own) if apart and own is not None and not target.image_stated else target


def server_args_from_list(arguments: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """`--rate-limit=execution_count`, `--metrics-port 8002` → flag → values."""
    flags: dict[str, tuple[str, ...]] = {}
    waiting: str | None = None
    for argument in arguments:
        if argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            flags[name] = flags.get(name, ()) + ((value,) if equals else ())
            waiting = None if equals else name
        elif waiting is not None:
            flags[waiting] += (argument,)
            waiting = None
    return flags


@lru_cache(maxsize=1)
def _limits() -> dict[str, tuple[int, int, str]]:
    path = Path(__file__).parent / "rules" / "files" / "onnxruntime_limits.csv"
    with path.open(newline="", encoding="utf-8") as file:
        return {
            row["onnxruntime"]: (int(row["ir_version"]), int(row["opset"]), row["source"])
            for row in csv.DictReader(file)
        }


def onnx_limits(onnxruntime: str) -> tuple[int, int] | None:
    """ONNX Runtime version → (newest IR version, newest opset) that it loads; None when not measured."""
    minor = re.match(r"\d+\.\d+", onnxruntime)
    row = _limits().get(minor.group()) if minor else None
    return (row[0], row[1]) if row else None
