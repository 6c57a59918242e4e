"""A directory → Repository: every model's config, versions, files and ONNX surface, frozen."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tritonsmith.builder.base.errors import ConfigError, Where
from tritonsmith.builder.base.files.untrusted import read_bounded
from tritonsmith.builder.base.triton_proto import model_config_pb2
from tritonsmith.builder.lint.read.circles import circles
from tritonsmith.builder.lint.read.edits import Place
from tritonsmith.builder.lint.read.engine import Engine, read_engine
from tritonsmith.builder.lint.read.files import is_dir, is_file, size_bytes
from tritonsmith.builder.lint.read.onnx_io import OnnxModel, OnnxProblem, read_onnx
from tritonsmith.builder.lint.read.pbtxt import ParsedConfig, parse_config

CONFIG = "config.pbtxt"


@dataclass(frozen=True, slots=True)
class Version:
    """One numbered version directory.

    entries: names directly in it.
    """

    number: int
    path: Path
    entries: frozenset[str]


@dataclass(frozen=True, slots=True)
class Plan:
    """A TensorRT plan of a served version, by its sidecar.

    serves: the compute capability that cc_model_filenames names it for; None for the default, which all others load.
    """

    version: int
    file: Path
    serves: str | None
    engine: Engine


@dataclass(frozen=True, slots=True)
class Model:
    """One model as it lies on disk.

    name:    the directory's name, which is the model's.
    path:    its directory.
    loose:   it is a config.pbtxt without a model directory: nothing about files is known.
    parsed:  the text of its config.pbtxt; None when it has none.
    written: the ModelConfig that the file states (empty without a file); None when it does not parse.
    config:  `written`, completed the way Triton does it; None likewise.
    onnx:    version number → the ONNX file's surface, or why it cannot be read; selected versions only.
    plans:   TensorRT plans that have a sidecar, one a GPU kind of cc_model_filenames; selected versions only.
    """

    name: str
    path: Path
    loose: bool
    config_path: Path
    parsed: ParsedConfig | None
    written: Any
    config: Any
    versions: tuple[Version, ...]
    subdirectories: tuple[str, ...]
    onnx: Mapping[int, OnnxModel | OnnxProblem]
    plans: tuple[Plan, ...]

    @property
    def engines(self) -> Mapping[int, Engine]:
        """Version number → an engine of it: those for several kinds of GPU have the same tensors and profiles."""
        return {plan.version: plan.engine for plan in reversed(self.plans)}

    @property
    def selected(self) -> tuple[Version, ...]:
        """The versions that the version policy serves, oldest first."""
        return select_versions(self.config, self.versions)

    @property
    def onnx_models(self) -> Iterable[tuple[int, OnnxModel]]:
        """(version, surface) of every readable ONNX file of the selected versions."""
        return ((n, m) for n, m in self.onnx.items() if isinstance(m, OnnxModel))

    def place_of(self, path: str) -> Place | None:
        """The place of a field in config.pbtxt."""
        return self.parsed.place_of(path) if self.parsed is not None else None

    def line_of(self, path: str) -> int | None:
        """Its line."""
        return self.parsed.line_of(path) if self.parsed is not None else None


@dataclass(frozen=True)
class Repository:
    """A model repository. `judged` are the names that findings are wanted for; None means all."""

    path: Path
    models: Mapping[str, Model]
    judged: frozenset[str] | None = None

    @cached_property
    def circles(self) -> Mapping[str, int]:
        """Model → the circle of ensembles that it is in; alone in it, it may still be its own step."""
        return circles(
            {
                name: [step.model_name for step in model.config.ensemble_scheduling.step]
                for name, model in self.models.items()
                if model.config is not None
            }
        )


def refuse_unreadable(model: Model) -> None:
    """ConfigError config_syntax where the model's config.pbtxt could not be read."""
    if model.config is None:
        assert model.parsed is not None
        problem = model.parsed.problems[0]
        raise ConfigError(
            f"{model.name}: {problem.message}",
            code="config_syntax",
            where=Where(model.config_path, problem.line),
            seen=problem.seen,
            valid=problem.valid[:20],
            fix=problem.fix or f"tritonsmith check {model.path}",
        )


def select_versions(config: Any | None, versions: tuple[Version, ...]) -> tuple[Version, ...]:
    """What ModelVersionPolicy picks: the newest one when nothing is said (core, src/model_lifecycle.cc).

    `latest { }` counts 0 versions and picks none, as seen live on 2.51.0.
    """
    if config is None or config.version_policy.WhichOneof("policy_choice") is None:
        return versions[-1:]
    policy = config.version_policy
    if policy.HasField("all"):
        return versions
    if policy.HasField("specific"):
        return tuple(v for v in versions if v.number in set(policy.specific.versions))
    count = policy.latest.num_versions
    return versions[-count:] if count else ()


def read_repository(path: Path, config_name: str | None = None) -> Repository:
    """Every subdirectory of `path` as a model.

    config_name: read configs/NAME.pbtxt instead of config.pbtxt where it exists, as --model-config-name does.
    """
    names = sorted(e.name for e in _scan(path) if not e.name.startswith(".") and is_dir(path / e.name))
    return Repository(path, {name: read_model(path / name, config_name) for name in names})


def read_beside(path: Path, config_name: str | None = None) -> Repository:
    """One model directory, and whatever models beside it that it needs as an ensemble."""
    path = path if path.name else path.resolve()
    root = path.parent
    models: dict[str, Model] = {}
    wanted = [path.name]
    while wanted:
        name = wanted.pop()
        if name in models or not name or "/" in name or name in (".", "..") or not is_dir(root / name):
            continue
        model = models[name] = read_model(root / name, config_name)
        if model.config is not None:
            wanted += [step.model_name for step in model.config.ensemble_scheduling.step]
    return Repository(root, models, frozenset({path.name}))


def read_loose(path: Path, text: str | None = None) -> Repository:
    """One config.pbtxt that stands alone; text: what it is to say, in place of what it does."""
    from tritonsmith.builder.lint.read.autofill import completed

    parsed = _parse_file(path) if text is None else parse_config(text)
    config = None if parsed.message is None else completed(parsed.message, parsed.message.name, None, ())
    name = (parsed.message.name if parsed.message is not None else "") or path.resolve().parent.name
    model = Model(name, path.parent, True, path, parsed, parsed.message, config, (), (), {}, ())
    return Repository(path.parent, {name: model}, frozenset({name}))


def with_text(model: Model, text: str) -> Model:
    """The model as it would be if its config.pbtxt said that."""
    if model.loose:
        (again,) = read_loose(model.config_path, text).models.values()
        return again
    name = None if model.config_path.name == CONFIG else model.config_path.stem
    return read_model(model.path, name, text=text)


def read_model(
    path: Path, config_name: str | None = None, stated: Any = None, text: str | None = None
) -> Model:
    """One model directory. Never raises for what is in it.

    stated: the ModelConfig message that it is to have, in place of what its config.pbtxt says; text: the same as text.
    """
    from tritonsmith.builder.lint.read.autofill import completed

    entries = _scan(path)
    config_path = path / CONFIG
    if config_name is not None and is_file(path / "configs" / f"{config_name}.pbtxt"):
        config_path = path / "configs" / f"{config_name}.pbtxt"
    parsed = parse_config(text) if text is not None else None
    if text is None and is_file(config_path):
        parsed = _parse_file(config_path)
    subdirectories = tuple(sorted(e.name for e in entries if is_dir(path / e.name)))
    versions = tuple(
        sorted(
            (_version(path / n) for n in subdirectories if is_version_name(n)),
            key=lambda version: version.number,
        )
    )
    written = model_config_pb2().ModelConfig() if parsed is None else parsed.message
    written = written if stated is None else stated
    onnx: dict[int, OnnxModel | OnnxProblem] = {}
    plans: list[Plan] = []
    config = None
    if written is not None:
        fields = completed(written, path.name, path, versions, onnx=None)
        for version in select_versions(fields, versions):
            _read_artifact(fields, version, onnx)
            plans += _plans(fields, version)
        newest = next((m for m in reversed(onnx.values()) if isinstance(m, OnnxModel)), None)
        config = completed(written, path.name, path, versions, onnx=newest)
    return Model(
        path.name,
        path,
        False,
        config_path,
        parsed,
        written,
        config,
        versions,
        subdirectories,
        onnx,
        tuple(plans),
    )


def is_version_name(name: str) -> bool:
    """Whether Triton takes a directory for a version: digits without a leading 0; 0 itself was seen to serve."""
    return name == "0" or (name.isascii() and name.isdigit() and not name.startswith("0"))


def model_file(config: Any, version: Version) -> Path:
    """The file that a version serves from; ONNX with external data is a directory that holds it."""
    path = version.path / str(config.default_model_filename)
    if config.backend == "onnxruntime" and is_dir(path):
        return path / "model.onnx"
    return path


def _plans(config: Any, version: Version) -> Iterator[Plan]:
    """Triton tells a plan by the GPU's compute capability, and takes the default for one that has none
    (tensorrt_backend, src/model_state.cc)."""
    if config.backend != "tensorrt":
        return
    rows: list[tuple[str | None, str]] = [(None, config.default_model_filename)]
    for serves, name in (*rows, *sorted(config.cc_model_filenames.items())):
        if not name or "/" in name or not {name, f"{name}.json"} <= version.entries:
            continue
        engine = read_engine(version.path / f"{name}.json")
        if engine is not None:
            yield Plan(version.number, version.path / name, serves, engine)


def _read_artifact(config: Any, version: Version, onnx: dict[int, OnnxModel | OnnxProblem]) -> None:
    name = config.default_model_filename
    if not name or "/" in name or name not in version.entries:
        return
    if config.backend == "onnxruntime":
        file = model_file(config, version)
        if not is_file(file):
            return
        try:
            onnx[version.number] = read_onnx(file)
        except OnnxProblem as problem:
            onnx[version.number] = problem


def _version(path: Path) -> Version:
    return Version(int(path.name), path, frozenset(e.name for e in _scan(path)))


def _scan(path: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return list(entries)
    except OSError:
        return []


def _parse_file(path: Path) -> ParsedConfig:
    from tritonsmith.builder.lint.read.pbtxt import MAX_BYTES
    from tritonsmith.builder.lint.read.walker import Problem

    try:
        if size_bytes(path) > MAX_BYTES:
            return parse_config(" " * (MAX_BYTES + 1))
        return parse_config(read_bounded(path, MAX_BYTES).decode())
    except (OSError, ValueError) as error:
        return ParsedConfig(None, {}, {}, (Problem(1, f"the file cannot be read: {error}"),))
