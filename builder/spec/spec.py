"""models.yaml → RepositorySpec of ModelSpec, checked and frozen; every error names file:line and the nearest valid key."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StrictInt, ValidationError, create_model, model_validator

from tritonsmith.builder.base.dim_relations import Sizes, ranges_with_relations, relation_from_text
from tritonsmith.builder.base.errors import SpecError, Where, shortened, unknown
from tritonsmith.builder.base.files.untrusted import fault_of_model_name, fault_of_text
from tritonsmith.builder.base.sources import SourceRow, source_rows
from tritonsmith.builder.spec.model_directory import fault_of_place, fault_of_places
from tritonsmith.builder.spec.triton_schema import TritonMessage, model_config_fields, model_config_type
from tritonsmith.builder.spec.variant_spec import UNION_TAGS, AccuracySpec, Frozen, StatedDim, Variant
from tritonsmith.builder.spec.yaml_source import KeyPath, YamlSource, read_yaml

# Triton's scheduling_choice: the one that a model states replaces another in `defaults:`.
SCHEDULING = ("dynamic_batching", "sequence_batching", "ensemble_scheduling")
# What `defaults:` may say that an ensemble cannot have, or takes from its steps.
NOT_FOR_ENSEMBLES = frozenset(
    (
        "backend",
        "platform",
        "max_batch_size",
        "dynamic_batching",
        "sequence_batching",
        "instance_group",
        "optimization",
        "model_warmup",
    )
)


class Step(Frozen):
    """One step of an ensemble; tensors of the ensemble are named by whoever writes or reads them."""

    model: str
    version: StrictInt = Field(-1, description="a version number; -1 is the newest")
    inputs: dict[str, str] = Field(
        alias="from", min_length=1, description="the step's input → ensemble tensor it reads"
    )
    outputs: dict[str, str] = Field(
        alias="to", min_length=1, description="the step's output → ensemble tensor it writes"
    )


class Source(Frozen):
    """Where a model comes from: exactly one of the kinds of builder.base.sources, each a field of `source_type()`."""

    steps: tuple[Step, ...] | None = Field(
        None, min_length=1, description="an ensemble's steps, in any order"
    )
    files: tuple[str, ...] = Field(
        (),
        description="further files the model depends on, when they are not opened through Python's open(); "
        "of a python source: files that are laid out beside model.py",
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> Source:
        rows = source_rows()
        present = [k for k in rows if getattr(self, k, None) is not None]
        if len(present) != 1:
            seen = " and ".join(present) or "none"
            raise ValueError(f"a source is exactly one of {', '.join(rows)}; here: {seen}")
        owners: dict[str, list[str]] = {}
        for row in rows.values():
            for option in row.options:
                owners.setdefault(option.name, []).append(row.kind)
        for name, kinds in owners.items():
            if name in self.model_fields_set and present[0] not in kinds:
                raise ValueError(f"{name} belongs to a {' or '.join(kinds)} source")
        return self

    @property
    def kind(self) -> str:
        """Which of them it is."""
        return next(k for k in source_rows() if getattr(self, k, None) is not None)

    @property
    def row(self) -> SourceRow:
        """What there is to know of its kind."""
        return source_rows()[self.kind]

    @property
    def reference(self) -> str:
        """The callable or path; for an ensemble its steps' models."""
        if self.steps is not None:
            return ", ".join(step.model for step in self.steps)
        return str(getattr(self, self.kind))

    @property
    def options(self) -> dict[str, Any]:
        """The options of its kind, as stated or by default."""
        return {option.name: getattr(self, option.name) for option in self.row.options}


@lru_cache(maxsize=1)
def source_type() -> type[Source]:
    """Source with a field for each kind and each option of the table."""
    fields: dict[str, Any] = {}
    for row in source_rows().values():
        if row.kind not in Source.model_fields:
            fields[row.kind] = (
                Annotated[str, Field(pattern=row.pattern)] | None,
                Field(None, description=row.description),
            )
        for option in row.options:
            text = f"of a {row.kind} source: {option.description}"
            fields[option.name] = (option.type, Field(option.default, description=text))
    made: type[Source] = create_model("Source", __base__=Source, __doc__=Source.__doc__, **fields)
    return made


class Target(Frozen):
    """What the repository must load on."""

    triton: Annotated[str, Field(pattern=r"^\d\d\.\d\d$")] | None = None
    gpus: tuple[str, ...] = Field((), description="kinds of GPUs; engines are built for each")
    tensorrt: str | None = Field(None, description="the image's, in full: 10.16.0.72")
    platform: Literal["linux_x86_64", "linux_aarch64"] | None = Field(
        None, description="of the servers; default: as the GPUs say, x86-64 where they do not"
    )


class ModelSpec(Frozen):
    """One model: a few keys of ours, and any field of Triton's ModelConfig in Triton's own form."""

    name: str
    source: Source
    opset: StrictInt = Field(20, ge=18, le=22, description="ONNX opset of an export from torch")
    exporter: Literal["dynamo", "torchscript"] | None = Field(
        None,
        description="of a torch source: torch.onnx.export with dynamo=True or False; default: dynamo, and torchscript where "
        "that refuses and what it writes answers like the module",
    )
    dynamic_dims: dict[str, StatedDim] = Field(
        {},
        description="each named dynamic dimension: its range, or what it follows from, as `past + new` or `2*n`",
    )
    accuracy: AccuracySpec = AccuracySpec()
    variants: dict[str, Variant] = Field(
        {}, description="ways to run the model; all are built, one is served"
    )
    serve: str | tuple[str, ...] | None = Field(
        None, description="the variant that is laid out, or a list in order of preference; default: the first"
    )
    on_fail: Literal["stop", "next"] = Field(
        "stop",
        description="when the accuracy gate refuses the variant to serve: stop, or take the next of `serve`",
    )
    calibration: str | None = Field(
        None,
        description="module:callable, .npz or directory with the inputs that int8 and fp8 are calibrated on",
    )
    model_files: dict[str, str] = Field(
        {},
        description="files laid into the model's directory (labels, warm-up data): path in it → file",
    )
    state: dict[str, str] = Field(
        {},
        description="an input that the server feeds → the output that it keeps for the sequence's next request; zeros "
        "at its start (implicit state of sequence_batching)",
    )
    smoke: str | None = Field(
        None,
        description=".npz with a few requests and the answers that a published version must give (inputs and outputs "
        "by name, or 0/NAME, 1/NAME, …); default: the build's own samples",
    )
    config: TritonMessage = Field(description="Triton's own fields, written beside ours")

    @model_validator(mode="after")
    def _serves_a_variant(self) -> ModelSpec:
        for name in self.preference:
            if name not in self.variants:
                told = unknown(name, self.variants)
                hint = told["fix"] or f"there are: {', '.join(told['valid']) or 'none'}"
                raise ValueError(f"serve names the variant {name!r}, which is not stated; {hint}")
        return self

    @property
    def preference(self) -> tuple[str, ...]:
        """The variants to serve, best first; empty without variants."""
        if self.serve is None:
            return tuple(self.variants)[:1]
        return (self.serve,) if isinstance(self.serve, str) else self.serve

    @property
    def dim_relations(self) -> dict[str, str]:
        """Name → what it follows from, of the dimensions that do."""
        return {name: dim for name, dim in self.dynamic_dims.items() if isinstance(dim, str)}

    @property
    def dim_ranges(self) -> dict[str, Sizes]:
        """Name → (min, opt, max), of the dimensions that follow from others, too."""
        stated = {
            name: (dim.min, dim.opt if dim.opt is not None else dim.max, dim.max)
            for name, dim in self.dynamic_dims.items()
            if not isinstance(dim, str)
        }
        return ranges_with_relations(stated, self.dim_relations)[0]

    @property
    def max_batch_size(self) -> int | None:
        """As stated; None when it is left to the model."""
        value = getattr(self.config, "max_batch_size")  # noqa: B009  the field is generated from the proto
        assert value is None or isinstance(value, int)
        return value


OWN_KEYS: tuple[str, ...] = tuple(k for k in ModelSpec.model_fields if k not in ("name", "config"))
# `name` comes from the key in `models:`; Triton's own is always written as the directory's name.
_TRITON_KEYS: tuple[str, ...] = tuple(k for k in model_config_fields() if k != "name")
_TOP_KEYS = ("target", "defaults", "models")
_NAME_FIX = "use letters, digits, '_', '-' and '.'; the name becomes a directory and part of a URL"


@dataclass(frozen=True, slots=True)
class RepositorySpec:
    """A whole spec.

    root: the spec's directory; relative paths and Python modules are looked up there.
    """

    path: Path
    root: Path
    models: tuple[ModelSpec, ...]
    target: Target
    source: YamlSource

    def where(self, model: str, *keys: str | int) -> Where:
        """The place of a model's key in models.yaml (in `defaults:` when it was inherited)."""
        own = ("models", model, *keys)
        if own not in self.source.lines and ("defaults", *keys) in self.source.lines:
            return self.source.where(("defaults", *keys))
        return self.source.where(own)


def load_spec(path: Path) -> RepositorySpec:
    """Reads and checks models.yaml; SpecError on the first thing wrong with it."""
    source = read_yaml(path)
    top = _mapping_at(source, source.data, ())
    _refuse_unknown(source, top, (), _TOP_KEYS)
    defaults = _mapping_at(source, top.get("defaults", {}), ("defaults",))
    _refuse_unknown(source, defaults, ("defaults",), (*OWN_KEYS, *_TRITON_KEYS))
    models = _mapping_at(source, top.get("models"), ("models",))
    if not models:
        raise SpecError(
            "no models",
            code="no_models",
            where=source.where(("models",)),
            fix="models: {NAME: {source: {onnx: FILE}}}",
        )
    target = _validated(source, Target, top.get("target", {}), ("target",))
    specs = tuple(_model(source, name, raw, defaults) for name, raw in models.items())
    _refuse_twins(source, specs)
    _refuse_step_cycles(source, specs)
    return RepositorySpec(path, path.resolve().parent, specs, target, source)


def _model(source: YamlSource, name: str, raw: Any, defaults: Mapping[str, Any]) -> ModelSpec:
    at: KeyPath = ("models", name)
    reason = fault_of_model_name(name)
    if reason:
        raise SpecError(
            f"model name {name!r} {reason}", code="model_name", where=source.where(at), fix=_NAME_FIX
        )
    given = _mapping_at(source, raw, at)
    _refuse_unknown(source, given, at, (*OWN_KEYS, *_TRITON_KEYS))
    ensemble = isinstance(given.get("source"), Mapping) and "steps" in given["source"]
    other_scheduling = {k for k in SCHEDULING if any(g in given for g in SCHEDULING if g != k)}
    if given.get("state"):
        other_scheduling = {*other_scheduling, "dynamic_batching", "ensemble_scheduling"}
    left_out = other_scheduling | (NOT_FOR_ENSEMBLES if ensemble else set())
    merged = _merged({k: v for k, v in defaults.items() if k not in left_out}, given)
    own = {k: v for k, v in merged.items() if k in OWN_KEYS}
    config = _validated(
        source, model_config_type(), {k: v for k, v in merged.items() if k in _TRITON_KEYS}, at
    )
    if "source" not in own:
        raise SpecError(
            f"model {name!r} has no source",
            code="no_source",
            where=source.where(at),
            valid=[f"source: {{{row.kind}: {row.example}}}" for row in source_rows().values()],
        )
    own["source"] = _validated(source, source_type(), own["source"], (*at, "source"))
    spec: ModelSpec = _validated(source, ModelSpec, {**own, "name": name, "config": config}, at)
    _refuse_bad_names(source, spec, at)
    _refuse_range_of_unknown_dim(source, spec, at)
    _refuse_state_elsewhere(source, spec, at)
    return spec


def _refuse_state_elsewhere(source: YamlSource, spec: ModelSpec, at: KeyPath) -> None:
    """`state` is completed from the model's own tensors, and is the sequence batcher's."""
    if not spec.state:
        return
    config = spec.config.as_proto_json()
    if not spec.source.row.backend or spec.source.row.stated or spec.source.steps is not None:
        reason, fix = (
            f"a {spec.source.kind} source states its states itself",
            "sequence_batching: {state: […]}",
        )
    elif "dynamic_batching" in config:
        reason, fix = "sequences and dynamic_batching exclude each other", "leave dynamic_batching out"
    elif config.get("sequence_batching", {}).get("state"):
        reason, fix = "sequence_batching.state says the same at length", "leave one of the two out"
    elif len(set(spec.state.values())) < len(spec.state):
        reason, fix = "two inputs cannot be fed from one output", "state: {INPUT: OUTPUT}, each output once"
    else:
        return
    raise SpecError(
        f"{spec.name}: state: {reason}", code="state_refused", where=source.where((*at, "state")), fix=fix
    )


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`; mappings merge key by key, anything else is replaced."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        result[key] = _merged(below, value) if both and isinstance(below, Mapping) else value
    return result


def _mapping_at(source: YamlSource, value: Any, at: KeyPath) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return value
    name = ".".join(str(k) for k in at) or "the file"
    raise SpecError(
        f"{name} must be a mapping of keys to values",
        code="wrong_type",
        where=source.where(at),
        seen="nothing" if value is None else f"{type(value).__name__} {shortened(repr(value))}",
    )


def _refuse_unknown(source: YamlSource, given: Mapping[str, Any], at: KeyPath, valid: Sequence[str]) -> None:
    for key in given:
        if key not in valid:
            raise _unknown_key(source, (*at, key), valid)


def _unknown_key(source: YamlSource, at: KeyPath, valid: Sequence[str]) -> SpecError:
    key = str(at[-1])
    inside = ".".join(str(k) for k in at[:-1])
    return SpecError(
        f"unknown key {key!r}" + (f" in {inside}" if inside else ""),
        code="unknown_key",
        where=source.where(at),
        **unknown(key, sorted(valid)),
    )


def _refuse_bad_names(source: YamlSource, spec: ModelSpec, at: KeyPath) -> None:
    """SpecError at the line of a name that does not print, or that cannot be the path it becomes."""
    for keys, fault in _faults_of_names(spec):
        where = source.where((*at, *keys))
        if (*at, *keys) not in source.lines and ("defaults", *keys) in source.lines:
            where = source.where(("defaults", *keys))
        raise SpecError(f"{spec.name}: {fault}", code="bad_name", where=where)


def _faults_of_names(spec: ModelSpec) -> Iterator[tuple[KeyPath, str]]:
    """(key path, what is named there and why it cannot be)"""
    for name in spec.variants:
        # A variant alone is laid out, cached and swept as MODEL__VARIANT.
        if fault := fault_of_model_name(name) or fault_of_model_name(f"{spec.name}__{name}"):
            yield ("variants", name), f"the variant {name!r} {fault}"
    for name in spec.model_files:
        if fault := fault_of_place(name):
            yield (
                ("model_files", name),
                f"no file can be laid at {name!r} inside the model's directory: it {fault}",
            )
    if clash := fault_of_places(spec.model_files):
        name, fault = clash
        yield ("model_files", name), f"no file can be laid at {name!r} inside the model's directory: {fault}"
    for keys, what, text in _stated_names(spec):
        if fault := fault_of_text(text):
            yield keys, f"{what} {shortened(ascii(text))} {fault}"


def _stated_names(spec: ModelSpec) -> Iterator[tuple[KeyPath, str, str]]:
    """(key path, what it is, the text) of tensors and of files, which become names in the lock and in the repository."""
    for kind in ("input", "output"):
        for index, tensor in enumerate(getattr(spec.config, kind) or ()):
            yield (kind, index, "name"), "the tensor", tensor.name or ""
    for index, step in enumerate(spec.source.steps or ()):
        for key, tensors in (("from", step.inputs), ("to", step.outputs)):
            for name, tensor in tensors.items():
                yield ("source", "steps", index, key, name), "the tensor", name
                yield ("source", "steps", index, key, name), "the tensor", tensor
    if spec.source.steps is None:
        yield ("source", spec.source.kind), "the source", spec.source.reference
    for index, file in enumerate(spec.source.files):
        yield ("source", "files", index), "the file", file
    for name, file in spec.model_files.items():
        yield ("model_files", name), "the file", file
    for name in spec.dynamic_dims:
        yield ("dynamic_dims", name), "the dimension", name
    yield ("calibration",), "the calibration", spec.calibration or ""
    yield ("smoke",), "the file", spec.smoke or ""
    yield ("accuracy", "samples"), "the samples", spec.accuracy.samples or ""
    for name, variant in spec.variants.items():
        yield ("variants", name, "accuracy", "samples"), "the samples", variant.accuracy.samples or ""


def folded_name(name: str) -> str:
    """What a disk may take the name for: small letters, in Unicode's compatible form."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def _refuse_twins(source: YamlSource, models: Sequence[ModelSpec]) -> None:
    """Names that are one directory on a disk which ignores case or normalises; a variant's directory is MODEL__VARIANT."""
    seen: dict[str, tuple[str, KeyPath]] = {}
    for model in models:
        named: list[tuple[str, KeyPath]] = [(model.name, ("models", model.name))]
        named += [(f"{model.name}__{v}", ("models", model.name, "variants", v)) for v in model.variants]
        for name, at in named:
            twin, other = seen.setdefault(folded_name(name), (name, at))
            if other != at:
                alike = "are the same" if twin == name else "differ in case or in Unicode's form only"
                raise SpecError(
                    f"the directories {twin!r} (line {source.where(other).line}) and {name!r} {alike}",
                    code="duplicate_name",
                    where=source.where(at),
                    fix="rename one of the two",
                )


def _refuse_step_cycles(source: YamlSource, models: Sequence[ModelSpec]) -> None:
    """An ensemble that reaches itself through its steps would wait for itself for ever."""
    try:
        TopologicalSorter({m.name: [s.model for s in m.source.steps or ()] for m in models}).prepare()
    except CycleError as error:
        found: list[str] = error.args[1][::-1]  # graphlib tells each model after the one that it is a step of
        raise SpecError(
            f"ensembles that contain one another: {_chain(found)}",
            code="ensemble_cycle",
            where=source.where(("models", found[0], "source", "steps")),
        ) from None


def _chain(names: Sequence[str]) -> str:
    """`a → b → a`; of a long one both ends."""
    shown = names if len(names) <= 10 else [*names[:5], f"… {len(names) - 10} more …", *names[-5:]]
    return " → ".join(shown)


def _refuse_range_of_unknown_dim(source: YamlSource, spec: ModelSpec, at: KeyPath) -> None:
    """A dim that no input has, and no other dim follows from; one that follows from what is no dim, or in a circle."""
    named = {d for t in stated_tensors(spec, "input") for d in t["dims"] or () if isinstance(d, str)}
    used = {n for text in spec.dim_relations.values() for n in relation_from_text(text).names}
    for dim, stated in spec.dynamic_dims.items():
        where = source.where((*at, "dynamic_dims", dim))
        unknown = [
            n
            for n in (relation_from_text(stated).names if isinstance(stated, str) else ())
            if n not in named and n not in spec.dynamic_dims
        ]
        if unknown:
            raise SpecError(
                f"dynamic_dims: {dim}: {stated} names {unknown[0]!r}, which no input has",
                code="unknown_dim",
                where=where,
                valid=sorted(named),
                fix=f"give it a range: dynamic_dims: {{{unknown[0]}: {{min: 1, max: …}}}}",
            )
        if dim not in named and not (dim in used and not isinstance(stated, str)):
            raise SpecError(
                f"dynamic_dims names {dim!r}, which no input has",
                code="unknown_dim",
                where=where,
                valid=sorted(named) or ("(no input states a named dim)",),
                fix=f"input: [{{name: …, dims: [{dim}]}}]",
            )
    try:
        ranges = spec.dim_ranges
    except ValueError as error:
        raise SpecError(
            f"{spec.name}: a dimension {error}",
            code="wrong_value",
            where=source.where((*at, "dynamic_dims")),
        ) from None
    for dim, sizes in ranges.items():
        if sizes[0] < 0:
            raise SpecError(
                f"dynamic_dims: {dim}: {spec.dynamic_dims[dim]} would be {sizes[0]} at the smallest sizes",
                code="wrong_value",
                where=source.where((*at, "dynamic_dims", dim)),
            )


def stated_tensors(spec: ModelSpec, kind: Literal["input", "output"]) -> tuple[Mapping[str, Any], ...]:
    """The inputs or outputs as the spec states them: {name, data_type, dims, …}, None where left out."""
    tensors = getattr(spec.config, kind) or ()
    return tuple(t.model_dump() for t in tensors)


def _validated(source: YamlSource, model: type[Any], data: Any, at: KeyPath) -> Any:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise _spec_error(source, model, error.errors()[0], at) from None


def _spec_error(source: YamlSource, model: type[BaseModel], error: Any, at: KeyPath) -> SpecError:
    location: KeyPath = (*at, *_real_keys(error["loc"], source, at))
    if error["type"] == "extra_forbidden":
        return _unknown_key(source, location, _valid_keys(model, error["loc"][:-1]))
    where = source.where(location)
    if at[:1] == ("models",) and location not in source.lines:
        where = (
            source.where(("defaults", *location[2:]))
            if ("defaults", *location[2:]) in source.lines
            else where
        )
    name = ".".join(str(k) for k in location)
    seen = error.get("input")
    message = str(error["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")
    expected = error.get("ctx", {}).get("expected") if error["type"] == "literal_error" else None
    words = re.findall(r"'([^']*)'", expected) if expected and isinstance(seen, str) else []
    return SpecError(
        f"{name}: {message[:1].lower() + message[1:]}",
        code="wrong_value" if error["type"] in ("value_error", "literal_error") else "wrong_type",
        where=where,
        seen=None if isinstance(seen, Mapping | BaseModel) else shortened(repr(seen)),
        fix=unknown(seen, words)["fix"],
    )


def _real_keys(loc: Sequence[str | int], source: YamlSource, at: KeyPath) -> Iterator[str | int]:
    """pydantic's location without the names of union members, which are not keys of the file."""
    for position, key in enumerate(loc):
        if position == len(loc) - 1 and key in ("int", "str", "constrained-int", "constrained-str"):
            return
        if key not in UNION_TAGS:
            yield key


def _valid_keys(model: type[BaseModel], loc: Sequence[str | int]) -> tuple[str, ...]:
    """The field names at a location inside `model`."""
    current: Any = model
    for key in loc:
        if isinstance(key, int) or not (isinstance(current, type) and issubclass(current, BaseModel)):
            continue
        if key in current.model_fields:
            current = _message_in(current.model_fields[key].annotation)
    keys = tuple(current.model_fields) if isinstance(current, type) and issubclass(current, BaseModel) else ()
    return tuple(k for k in keys if k not in ("config",))


def _message_in(annotation: Any) -> Any:
    """The pydantic type inside Optional[…], tuple[…, ...] or dict[str, …]."""
    if isinstance(annotation, type) and not getattr(annotation, "__args__", None):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _message_in(argument)
        if isinstance(found, type) and issubclass(found, BaseModel):
            return found
    return None


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of models.yaml, for editors."""
    own = ModelSpec.model_json_schema()
    triton = model_config_type().model_json_schema()
    properties = {k: v for k, v in own["properties"].items() if k in OWN_KEYS}
    properties |= {k: v for k, v in triton["properties"].items() if k in _TRITON_KEYS}
    target = Target.model_json_schema()
    model = {"type": "object", "additionalProperties": False, "properties": properties}
    origin = source_type().model_json_schema()
    own["$defs"] |= {**origin.pop("$defs", {}), "Source": origin}
    definitions = {k: v for d in (own, triton) for k, v in d.get("$defs", {}).items() if k != "TritonMessage"}
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "tritonsmith models.yaml",
        "type": "object",
        "additionalProperties": False,
        "required": ["models"],
        "properties": {
            "target": target,
            "defaults": {"$ref": "#/$defs/Model"},
            "models": {"type": "object", "additionalProperties": {"$ref": "#/$defs/Model"}},
        },
        "$defs": {**definitions, "Model": model},
    }
    result = _without_null(schema)
    # A parameter may be written as a scalar, see triton_schema._Parameter.
    result["$defs"]["_Parameter"] = {
        "anyOf": [{"type": ["string", "number", "boolean"]}, result["$defs"]["_Parameter"]]
    }
    return dict(result)


def _without_null(schema: Any) -> Any:
    """The schema without `null`: a key is left out of models.yaml, never written as null."""
    if isinstance(schema, list):
        return [_without_null(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {k: _without_null(v) for k, v in schema.items() if not (k == "default" and v is None)}
    options = [o for o in kept.get("anyOf", ()) if o != {"type": "null"}]
    if "anyOf" in kept and len(options) == 1:
        del kept["anyOf"]
        return {**options[0], **kept}
    return {**kept, "anyOf": options} if options else kept
