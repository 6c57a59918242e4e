"""Arms of a sweep → models on the server: side by side under generated names, or in turn in place.

Side by side, every arm is a scratch model of its own (`minilm__arm03`): a directory in a scratch repository
whose version directories are links to the real model's, loaded through the load API with the arm's config.
All arms stay loaded, so changing arms costs nothing and rounds interleave closely; idle instances cost memory
and no CPU. In place, the model itself is reloaded with each arm's config: no memory beyond one arm, but
seconds a change. Side by side is the default while the arms fit into the memory that is free.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tritonsmith import __version__
from tritonsmith.builder.base.errors import UsageError, Where, unknown
from tritonsmith.builder.base.files.untrusted import json_value, read_bounded
from tritonsmith.builder.base.machine.toolchain import this_processor
from tritonsmith.builder.base.processes.budget import free_memory_bytes
from tritonsmith.builder.llm.contract import VLLM_ARGUMENTS_FILE
from tritonsmith.builder.model_config.model_config import model_config_from_text
from tritonsmith.perf.sweep.plan import Arm, Placement
from tritonsmith.perf.sweep.plan.config_path import ENGINE
from tritonsmith.perf.sweep.trial import instance_count

# An instance of a Python-based backend is a process with its own copy of the weights.
INSTANCE_BYTES = 90 << 20
WEIGHTS_FACTOR = 2.0
MEMORY_SHARE = 0.6


def model_directory(repositories: Sequence[Path], model: str) -> Path:
    """The model's directory; UsageError with the nearest name when no repository has it."""
    names: list[str] = []
    for repository in repositories:
        if not repository.is_dir():
            raise UsageError(
                "the model repository is not a directory",
                code="repository_missing",
                seen=repository,
                fix="tritonsmith build makes one",
            )
        found = sorted(p.name for p in repository.iterdir() if p.is_dir() and not p.name.startswith("."))
        if model in found:
            return repository / model
        names += found
    message = f"the model repository has no model '{model}'"
    raise UsageError(message, code="unknown_model", **unknown(model, names, "give it by --model"))


def scratch_name(model: str, arm: Arm) -> str:
    """`minilm__arm03`."""
    return f"{model}__{arm.id}"


def make_scratch_model(
    source: Path, scratch: Path, name: str, engine: Mapping[str, Any] | None = None
) -> None:
    """A model directory of links to the source's; its config comes with the load call.

    engine: what model.json is to hold in each version, in place of the source's.
    Triton refuses a model directory that is a link itself but follows links inside one.
    """
    target = scratch / name
    target.mkdir(parents=True, exist_ok=True)
    for entry in sorted(source.iterdir()):
        if entry.name == "config.pbtxt" or entry.name.startswith("."):
            continue
        if engine is not None and (entry / VLLM_ARGUMENTS_FILE).is_file():
            (target / entry.name).mkdir(exist_ok=True)
            for file in sorted(entry.iterdir()):
                if file.name != VLLM_ARGUMENTS_FILE:
                    _link(target / entry.name / file.name, file)
            (target / entry.name / VLLM_ARGUMENTS_FILE).write_text(
                json.dumps(engine, indent=2) + "\n", encoding="utf-8"
            )
        else:
            _link(target / entry.name, entry)


def _link(link: Path, to: Path) -> None:
    if not link.exists():
        link.symlink_to(to.resolve(), target_is_directory=to.is_dir())


def with_engine(config: Mapping[str, Any], source: Path | None) -> dict[str, Any]:
    """The config, of a vllm model beside it what its engine is told: model.json of the newest version under `engine`."""
    versions = [v for v in source.iterdir() if v.name.isdecimal()] if source is not None else []
    if config.get("backend") == "vllm":
        for version in sorted(versions, key=lambda v: int(v.name), reverse=True):
            if (version / VLLM_ARGUMENTS_FILE).is_file():
                return {**config, ENGINE: _engine_in(version / VLLM_ARGUMENTS_FILE)}
    return dict(config)


def _engine_in(file: Path) -> dict[str, Any]:
    try:
        found = json_value(read_bounded(file))
        if not isinstance(found, dict):
            raise ValueError("it is no object")
    except (OSError, ValueError) as error:
        raise UsageError(
            f"it is no engine's arguments: {error}", code="bad_engine", where=Where(file)
        ) from None
    return found


def config_of(directory: Path) -> dict[str, Any] | None:
    """A model directory's config.pbtxt as Triton's load API takes it, None when it has none."""
    from google.protobuf import json_format

    path = directory / "config.pbtxt"
    if not path.is_file():
        return None
    message = model_config_from_text(path.read_text(), Where(path))
    config: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return config


def choose_placement(
    wanted: Placement,
    arms: Sequence[Arm],
    source: Path | None,
    scratch: Path | None,
    free_bytes: int | None = None,
) -> tuple[Placement, str]:
    """(placement, why). `source`, `scratch`: the model's files and a repository of the server to write to."""
    if source is None or scratch is None:
        why = "the server has no scratch repository"
        if wanted == "side_by_side":
            raise UsageError("arms cannot stand side by side: " + why, code="no_scratch")
        return "in_place", why
    if wanted != "auto":
        return wanted, "asked for"
    needed = memory_needed_bytes(arms, source)
    free = free_memory_bytes() if free_bytes is None else free_bytes
    if needed > MEMORY_SHARE * free:
        return "in_place", f"{len(arms)} arms need about {needed >> 20} MiB, {free >> 20} MiB are free"
    return "side_by_side", f"{len(arms)} arms need about {needed >> 20} MiB of {free >> 20} MiB free"


def memory_needed_bytes(arms: Sequence[Arm], source: Path) -> int:
    """An upper guess: each instance is a process with the weights twice (file and prepacked)."""
    weights = max((_tree_bytes(version) for version in source.iterdir() if version.is_dir()), default=0)
    instances = sum(instance_count(arm.config) for arm in arms)
    return int(instances * (INSTANCE_BYTES + WEIGHTS_FACTOR * weights))


def _tree_bytes(directory: Path) -> int:
    return sum(f.stat().st_size for f in directory.rglob("*") if f.is_file())


def environment(extra: Mapping[str, object]) -> dict[str, object]:
    """Where a run was measured: processor, cores, memory, system, Python and tritonsmith versions."""
    import psutil

    return {
        "cpu": this_processor(),
        "cores": os.cpu_count(),
        "memory_bytes": int(psutil.virtual_memory().total),
        "load_average": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        "tritonsmith": __version__,
        **extra,
    }


def machine() -> str:
    """Processor and cores: what numbers of another machine are told by."""
    return f"{this_processor()}, {os.cpu_count()} cores"
