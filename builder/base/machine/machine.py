"""This machine → Machine: what decides which engines it can compile, as a value."""

from __future__ import annotations

from dataclasses import dataclass

from tritonsmith.builder.base.machine.cuda import Gpu, gpus
from tritonsmith.builder.base.machine.toolchain import this_platform, this_toolchain


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine that engines may be compiled on.

    gpus: that a process of ours sees. why_no_gpu: where it sees none.
    tensorrt: installed version, None without. platform: `linux_x86_64`.
    """

    gpus: tuple[Gpu, ...] = ()
    why_no_gpu: str = ""
    tensorrt: str | None = None
    platform: str = "linux_x86_64"

    def gpus_of(self, compute_capability: str | None) -> tuple[Gpu, ...]:
        """Its GPUs of a compute capability."""
        return tuple(gpu for gpu in self.gpus if gpu.compute_capability == compute_capability)


def this_machine() -> Machine:
    """The machine that this process runs on; nothing is imported for it."""
    found, why = gpus()
    return Machine(found, why, this_toolchain().fingerprint("tensorrt")["tensorrt"], this_platform())
