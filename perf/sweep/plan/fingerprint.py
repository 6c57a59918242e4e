"""What a sweep is measured on (files, server, requests, settings) → digests, and from them each trial's key.

A trial of an earlier run is the same measurement only when all of this is the same; names and paths are no
part of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritonsmith.builder.actions.accuracy.laid_out import ACCURACY_FILE
from tritonsmith.builder.base.files.digest import digest_of_bytes, digest_of_file, digest_of_value
from tritonsmith.perf.data.repeat import POOL
from tritonsmith.perf.sweep.plan import Arm, SweepSpec, Trial, config_path
from tritonsmith.perf.wire.payload import InferPayload


@dataclass(frozen=True, slots=True)
class Content:
    """What belongs to every trial → its digest or plain value; `parts` reads well in "… changed"."""

    parts: Mapping[str, str]

    def key(self, arm: Arm, trial: Trial) -> str:
        """sha256 of all that the trial's numbers come from: parts, config, load point and round.

        The A/A pair is one config under two ids, which both have to be measured.
        """
        variants = {name for name in self.parts if name.startswith(VARIANT_FILES)}
        parts = {name: value for name, value in self.parts.items() if name not in variants}
        return digest_of_value(
            {
                **parts,
                "variant": self.parts.get(VARIANT_FILES + arm.variant, ""),
                "config": digest_of_bytes(config_path.identity(arm.config)),
                "twin": arm.id if arm.baseline else "",
                "others": {n: digest_of_bytes(config_path.identity(c)) for n, c in arm.others.items()},
                "batch_size": arm.batch_size,
                "concurrency": trial.concurrency,
                "round": trial.round,
            }
        )


VARIANT_FILES = "the files of variant "
SERVER, MACHINE = "the server", "the machine"
PLAIN_PARTS = (SERVER, MACHINE)
"""Parts whose values are words, not digests."""
SETTINGS = "the measurement settings"


def content_of(
    spec: SweepSpec,
    server: str,
    directories: Mapping[str, Path],
    payloads: Sequence[InferPayload],
    machine: str = "",
    configs: Mapping[str, Mapping[str, Any]] | None = None,
) -> Content:
    """directories: "" for the model, the others by model name for those at work beside it.

    configs: of those others whose settings no arm changes.
    """
    parts = {"the model's files": digest_of_tree(directories[""])}
    parts |= {f"the files of {name}": digest_of_tree(path) for name, path in directories.items() if name}
    parts |= {
        f"the config of {name}": digest_of_bytes(config_path.identity(config))
        for name, config in (configs or {}).items()
    }
    parts |= {VARIANT_FILES + name: digest_of_tree(Path(path)) for name, path in spec.variants.items()}
    settings = spec.model_dump(
        mode="json",
        include={"batch_size", "duration_s", "warmup_s", "slo_p99_ms", "max_wrong", "rtol", "atol"},
    )
    if spec.repeat not in (None, POOL):  # without it the digest is what it was before there was any
        settings["repeat"] = spec.repeat
    beside = {str(directories.get(name, name)): count for name, count in spec.beside.items()}
    return Content(
        {
            **parts,
            SERVER: server,
            MACHINE: machine,
            "the requests' data": digest_of_payloads(payloads),
            SETTINGS: digest_of_value({**settings, "beside": sorted(beside.values())}),
        }
    )


def digest_of_tree(directory: Path, but: Sequence[str] = ()) -> str:
    """sha256 over relative paths and contents of what is served; config.pbtxt is none of it, each arm has its own, nor are
    files of the names in `but`."""
    other = ("config.pbtxt", ACCURACY_FILE, *but)
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path.name not in other)
    return digest_of_value([[str(path.relative_to(directory)), digest_of_file(path)] for path in files])


def digest_of_payloads(payloads: Sequence[InferPayload]) -> str:
    """sha256 over every tensor of every request, expected outputs included."""
    return digest_of_value(
        [
            [
                [[t.name, t.datatype, list(t.shape), digest_of_bytes(t.data)] for t in payload.inputs],
                sorted(
                    [name, digest_of_bytes(repr(array.tolist()).encode())]
                    for name, array in (payload.expected or {}).items()
                ),
            ]
            for payload in payloads
        ]
    )
