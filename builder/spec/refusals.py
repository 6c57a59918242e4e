"""A model's spec, or all of them → SpecError where names, dimensions, states or steps cannot be what they say."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from graphlib import CycleError, TopologicalSorter

from tritonsmith.builder.base.dim_relations import relation_from_text
from tritonsmith.builder.base.errors import SpecError, shortened
from tritonsmith.builder.base.files.untrusted import fault_of_model_name, fault_of_text
from tritonsmith.builder.spec.model_directory import fault_of_place, fault_of_places
from tritonsmith.builder.spec.model_spec import ModelSpec, stated_tensors
from tritonsmith.builder.spec.yaml_source import KeyPath, YamlSource


def refuse_state_elsewhere(source: YamlSource, model: ModelSpec, at: KeyPath) -> None:
    """`state` is completed from the model's own tensors, and is the sequence batcher's."""
    if not model.state:
        return
    config = model.config.as_proto_json()
    if not model.source.row.backend or model.source.row.stated or model.source.steps is not None:
        reason, fix = (
            f"a {model.source.kind} source states its states itself",
            "sequence_batching: {state: […]}",
        )
    elif "dynamic_batching" in config:
        reason, fix = "sequences and dynamic_batching exclude each other", "leave dynamic_batching out"
    elif config.get("sequence_batching", {}).get("state"):
        reason, fix = "sequence_batching.state says the same at length", "leave one of the two out"
    elif len(set(model.state.values())) < len(model.state):
        reason, fix = "two inputs cannot be fed from one output", "state: {INPUT: OUTPUT}, each output once"
    else:
        return
    raise SpecError(
        f"{model.name}: state: {reason}", code="state_refused", where=source.where((*at, "state")), fix=fix
    )


def refuse_bad_names(source: YamlSource, model: ModelSpec, at: KeyPath) -> None:
    """SpecError at the line of a name that does not print, or that cannot be the path it becomes."""
    for keys, fault in _faults_of_names(model):
        where = source.where_stated((*at, *keys))
        raise SpecError(f"{model.name}: {fault}", code="bad_name", where=where)


def _faults_of_names(model: ModelSpec) -> Iterator[tuple[KeyPath, str]]:
    """(key path, what is named there and why it cannot be)"""
    for name in model.variants:
        # A variant alone is laid out, cached and swept as MODEL__VARIANT.
        if fault := fault_of_model_name(name) or fault_of_model_name(f"{model.name}__{name}"):
            yield ("variants", name), f"the variant {name!r} {fault}"
    for name in model.model_files:
        if fault := fault_of_place(name):
            yield (
                ("model_files", name),
                f"no file can be laid at {name!r} inside the model's directory: it {fault}",
            )
    if clash := fault_of_places(model.model_files):
        name, fault = clash
        yield ("model_files", name), f"no file can be laid at {name!r} inside the model's directory: {fault}"
    for keys, what, text in _stated_names(model):
        if fault := fault_of_text(text):
            yield keys, f"{what} {shortened(ascii(text))} {fault}"


def _stated_names(model: ModelSpec) -> Iterator[tuple[KeyPath, str, str]]:
    """(key path, what it is, the text) of tensors and of files, which become names in the lock and in the repository."""
    for kind in ("input", "output"):
        for index, tensor in enumerate(getattr(model.config, kind) or ()):
            yield (kind, index, "name"), "the tensor", tensor.name or ""
    for index, step in enumerate(model.source.steps or ()):
        for key, tensors in (("from", step.inputs), ("to", step.outputs)):
            for name, tensor in tensors.items():
                yield ("source", "steps", index, key, name), "the tensor", name
                yield ("source", "steps", index, key, name), "the tensor", tensor
    if model.source.steps is None:
        yield ("source", model.source.kind), "the source", model.source.reference
    for index, file in enumerate(model.source.files):
        yield ("source", "files", index), "the file", file
    for name, file in model.model_files.items():
        yield ("model_files", name), "the file", file
    for name in model.dynamic_dims:
        yield ("dynamic_dims", name), "the dimension", name
    yield ("calibration",), "the calibration", model.calibration or ""
    yield ("smoke",), "the file", model.smoke or ""
    yield ("accuracy", "samples"), "the samples", model.accuracy.samples or ""
    for name, variant in model.variants.items():
        yield ("variants", name, "accuracy", "samples"), "the samples", variant.accuracy.samples or ""


def folded_name(name: str) -> str:
    """What a disk may take the name for: small letters, in Unicode's compatible form."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def refuse_twins(source: YamlSource, models: Sequence[ModelSpec]) -> None:
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


def refuse_step_cycles(source: YamlSource, models: Sequence[ModelSpec]) -> None:
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


def refuse_range_of_unknown_dim(source: YamlSource, model: ModelSpec, at: KeyPath) -> None:
    """A dim that no input has, and no other dim follows from; one that follows from what is no dim, or in a circle."""
    named = {d for t in stated_tensors(model, "input") for d in t["dims"] or () if isinstance(d, str)}
    used = {n for text in model.dim_relations.values() for n in relation_from_text(text).names}
    for dim, stated in model.dynamic_dims.items():
        where = source.where((*at, "dynamic_dims", dim))
        unknown = [
            n
            for n in (relation_from_text(stated).names if isinstance(stated, str) else ())
            if n not in named and n not in model.dynamic_dims
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
        ranges = model.dim_ranges
    except ValueError as error:
        raise SpecError(
            f"{model.name}: a dimension {error}",
            code="wrong_value",
            where=source.where((*at, "dynamic_dims")),
        ) from None
    for dim, sizes in ranges.items():
        if sizes[0] < 0:
            raise SpecError(
                f"dynamic_dims: {dim}: {model.dynamic_dims[dim]} would be {sizes[0]} at the smallest sizes",
                code="wrong_value",
                where=source.where((*at, "dynamic_dims", dim)),
            )
