"""Rules about the engines that TensorRT-LLM's five-model layout loads: `trtllm-build`'s config.json and rank*.engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritonsmith.builder.base.machine.releases import is_same_tensorrt, releases
from tritonsmith.builder.lint.read.files import exists, is_file
from tritonsmith.builder.lint.read.model import Model
from tritonsmith.builder.lint.rule import Context, Hit, rule
from tritonsmith.builder.lint.rules.files.engine_files import (
    parameter_field,
    place_of,
    read_engine_file,
    whole_number,
)
from tritonsmith.builder.lint.rules.files.tensorrtllm import (
    BACKEND,
    CPP,
    ENGINE_PATH,
    UNFINISHED,
    is_engine_model,
    parameter_text,
    value_of,
)
from tritonsmith.builder.llm.arguments import engine_version, release_of_engine

_MOST_RANKS = 1024  # of one engine that are looked for


@dataclass(frozen=True, slots=True)
class _Engine:
    """A directory of engines that gpt_model_path names, and what its config.json says."""

    path: Path
    config: Mapping[str, Any]

    @property
    def world_size(self) -> int | None:
        mapping = self.config.get("pretrained_config", {}).get("mapping", {})
        return whole_number(mapping.get("world_size"), 0) or None if isinstance(mapping, dict) else None


def _engine(model: Model) -> _Engine | None:
    """None where it is not known to be on this machine."""
    value = value_of(model, ENGINE_PATH) if is_engine_model(model) and not model.loose else ""
    found = (place_of(model, version, value) for version in model.selected) if value else ()
    path = next((path for path in found if path is not None), None)
    if path is None:
        return None
    values = read_engine_file(path / "config.json").values
    pretrained = values.get("pretrained_config")
    return _Engine(path, values if isinstance(pretrained, dict) else {**values, "pretrained_config": {}})


def _with_engine(files: str) -> str:
    return UNFINISHED + parameter_text(ENGINE_PATH, "/models/m/1/engine") + files


def _config(version: str = "0.20.0", world_size: int = 1) -> str:
    mapping = f'{{"mapping": {{"world_size": {world_size}}}}}'
    return f'\n# 1/engine/config.json\n{{"version": "{version}", "pretrained_config": {mapping}}}'


_RANK = "\n# 1/engine/rank0.engine\n"


@rule(
    "TRTLLM006",
    "error",
    "load",
    then="the model does not load",
    fix="build the engine there: trtllm-build --output_dir …",
    source=f"{CPP}, ModelInstanceState (gpt_model_path); TensorRT-LLM/cpp, GptJsonConfig::parse",
    bad=_with_engine(_RANK),
    good=_with_engine(_config() + _RANK),
    needs="files",
)
def no_engine(model: Model, context: Context) -> Iterator[Hit]:
    """gpt_model_path names a directory of this version that has no engine, or not one for each of its GPUs."""
    engine = _engine(model)
    if engine is None:
        return
    wanted = [
        "config.json",
        *(f"rank{rank}.engine" for rank in range(min(engine.world_size or 1, _MOST_RANKS))),
    ]
    absent = [name for name in wanted if not is_file(engine.path / name)]
    if absent:
        what = "is not there" if not exists(engine.path) else f"has no {', '.join(absent[:4])}"
        yield Hit(f"{ENGINE_PATH} {what}", parameter_field(ENGINE_PATH), value_of(model, ENGINE_PATH))


@rule(
    "TRTLLM007",
    "error",
    "load",
    then="TensorRT refuses an engine of another of its versions; TensorRT-LLM reads one of its own version alone",
    fix="build the engine again with the TensorRT-LLM of the image",
    source="TensorRT-LLM/docs (engines are not compatible across versions); triton-inference-server/server "
    "docs/introduction/compatibility.md",
    bad=_with_engine(_config("0.14.0") + _RANK) + "\n# target 25.06",
    good=_with_engine(_config("0.20.0") + _RANK) + "\n# target 25.06",
    needs="target",
)
def engine_of_another_version(model: Model, context: Context) -> Iterator[Hit]:
    """An engine was built by another TensorRT-LLM than the target's image has."""
    engine = _engine(model)
    wanted = engine_version(BACKEND, context.target.release)
    built = engine.config.get("version") if engine is not None else None
    if engine is None or wanted is None or not isinstance(built, str) or _plain(built) == _plain(wanted):
        return
    tensorrts = [
        (releases().get(release or "") or {}).get("tensorrt_trtllm_image", "")
        for release in (release_of_engine(BACKEND, built), context.target.release)
    ]
    yield Hit(
        f"it was built by TensorRT-LLM {built}, and Triton {context.target.release} has {wanted}",
        seen=built,
        file=engine.path / "config.json",
        line=read_engine_file(engine.path / "config.json").line_of("version"),
        severity="warning" if all(tensorrts) and is_same_tensorrt(*tensorrts) else None,
    )


def _plain(version: str) -> str:
    return version.partition("+")[0].partition(".post")[0]


@rule(
    "TRTLLM008",
    "error",
    "load",
    then="the model does not load",
    fix="build the engine for fewer GPUs, or name a target with more",
    source="TensorRT-LLM/cpp, WorldConfig: a rank has a GPU of its own",
    bad=_with_engine(_config(world_size=2) + _RANK + "\n# 1/engine/rank1.engine\n")
    + "\n# target with 1 GPUs",
    good=_with_engine(_config() + _RANK) + "\n# target with 1 GPUs",
    needs="gpus",
)
def engine_for_more_gpus(model: Model, context: Context) -> Iterator[Hit]:
    """An engine is built for more GPUs than the target has."""
    engine, known = _engine(model), context.target.gpus
    size = engine.world_size if engine is not None else None
    nodes = whole_number(value_of(model, "num_nodes"))
    if known is not None and size is not None and size > known * nodes:
        yield Hit(
            f"the engine is for {size} GPUs, and the target has {known}", parameter_field(ENGINE_PATH), size
        )
