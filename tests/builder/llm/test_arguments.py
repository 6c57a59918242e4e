"""Backend and Triton release → the arguments of its engine; the tables against what their sources say."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from tritonsmith.builder.base.machine.releases import releases
from tritonsmith.builder.llm.arguments import (
    Backend,
    arguments,
    arguments_versions,
    engine_version,
    nearest_argument,
)
from tritonsmith.builder.llm.read_fields import Field, Sources, listed_fields

BACKENDS: tuple[Backend, ...] = get_args(Backend)


@pytest.mark.parametrize(
    ("release", "version"),
    [
        ("24.10", "0.5.5"),
        ("25.01", "0.6.3.post1"),
        ("26.02", "0.15.1+nv26.2"),
        ("26.08", "0.27.1+b1082979.nv26.8.62699174"),
        ("26.10", None),
        (None, None),
    ],
)
def test_a_release_has_the_vllm_that_the_compatibility_matrix_says(
    release: str | None, version: str | None
) -> None:
    assert engine_version("vllm", release) == version


def test_a_candidate_is_both_versions_around_it() -> None:
    assert engine_version("vllm", "25.06") == "0.9.0rc1+1958ee56.nv25.6.cu129"
    assert arguments_versions("vllm", "25.06") == ("0.8.4", "0.9.0")
    older, either = arguments("vllm", "25.05"), arguments("vllm", "25.06")
    assert set(older) < set(either)
    assert "eplb_config" not in either and "data_parallel_rpc_port" in either  # not yet; 0.9.0's alone


def test_a_release_whose_engine_is_unknown_has_the_arguments_of_all_versions() -> None:
    everything = arguments("vllm")
    assert arguments("vllm", "26.10") == everything
    assert all(set(arguments("vllm", release)) <= set(everything) for release in releases())
    assert {"swap_space", "use_v2_block_manager", "enable_prefix_caching"} <= set(everything)


@pytest.mark.parametrize(
    ("release", "name", "has"),
    [
        # vllm 0.5.5 and 0.7.0: vllm/engine/arg_utils.py, EngineArgs; 0.27.1: the same
        ("24.10", "guided_decoding_backend", True),
        ("24.10", "compilation_config", False),
        ("25.02", "compilation_config", True),
        ("26.08", "guided_decoding_backend", False),
        ("26.08", "disable_log_requests", False),
        ("24.10", "disable_log_requests", True),
        ("26.08", "enable_log_requests", True),
        ("26.08", "kv_cache_memory_bytes", True),
    ],
)
def test_an_argument_is_there_from_its_first_to_its_last_version(release: str, name: str, has: bool) -> None:
    assert (name in arguments("vllm", release)) is has


def test_an_argument_says_its_types_default_and_choices() -> None:
    of = arguments("vllm", "26.08")
    assert (of["gpu_memory_utilization"].types, of["gpu_memory_utilization"].default) == (("float",), 0.92)
    assert arguments("vllm", "24.10")["gpu_memory_utilization"].default == 0.9
    assert of["max_num_seqs"].type == "int" and of["max_num_seqs"].nullable
    assert "float16" in of["dtype"].choices and "fp16" not in of["dtype"].choices
    assert of["served_model_name"].type == "list or str"
    assert of["speculative_config"].types == ("json",)
    assert "vllm-0.27.1.tar.gz" in of["speculative_config"].source or of["speculative_config"].last > "0.27"
    assert of["max_num_seqs"].description


def test_the_nearest_argument_of_a_typo() -> None:
    assert nearest_argument("vllm", "26.08", "max-model-length") == "max_model_len"
    assert nearest_argument("vllm", "26.08", "gpu_mem_utilization") == "gpu_memory_utilization"
    assert nearest_argument("vllm", "26.08", "xyzzy") is None


def test_tensorrtllm_has_its_main_branch_alone() -> None:
    assert engine_version("tensorrtllm", "26.07") == "1.2.1"
    assert engine_version("tensorrtllm", "26.08") is None
    of = arguments("tensorrtllm", "26.07")
    assert of == arguments("tensorrtllm")  # no release's own list: all that any state of it takes
    assert (of["tensor_parallel_size"].types, of["tensor_parallel_size"].default) == (("int",), 1)
    assert of["kv_cache_config"].types == ("json",)
    assert {"auto", "slow"} == set(of["tokenizer_mode"].choices)
    assert not of["backend"].choices  # pytorch alone in the newest, any word in the older
    assert nearest_argument("tensorrtllm", None, "tensor_parallel") == "tensor_parallel_size"


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_row_of_a_table_is_in_order_and_has_a_source(backend: Backend) -> None:
    versions = arguments_versions(backend, None)
    for argument in arguments(backend).values():
        assert versions.index(argument.first) <= versions.index(argument.last)
        assert argument.types and argument.source
        kinds = {type(value).__name__ for value in argument.choices}
        assert kinds <= set(argument.types)


def test_every_description_is_of_an_argument() -> None:
    import csv

    from tritonsmith.builder.llm.arguments import TABLES

    with (TABLES / "descriptions.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            assert row["backend"] in BACKENDS and row["description"].endswith(".")
            assert row["name"] in arguments("vllm" if row["backend"] == "vllm" else "tensorrtllm"), row


def test_fields_are_read_from_annotations_defaults_and_literals() -> None:
    sources = Sources(
        [
            """
from typing import Literal, Optional, Union
Kind = Literal["auto", "half"]
class Level(IntEnum):
    O0 = 0
    O1 = 1
class Part(BaseModel):
    rank: int = Field(default=16, ge=1)
    names: list[str] = field(default_factory=list)
""",
            """
NAMES = ["a", "b"]
class Base:
    rank: int = Part.rank
    kind: Kind | None = "auto"
    names: "list[str]" = get_field(Part, "names")
    level: Level = Level.O1
    open: Union[Kind, str] = "other"
    device: Optional[Union[str, torch.device]] = None
    part: Part = field(default_factory=Part)
    _own: int = 1
    @staticmethod
    def add_cli_args(parser):
        parser.add_argument("--mode", choices=NAMES)
class Args(Base):
    mode: str = "a"
    wide: float = 1 / 2
""",
        ]
    )
    assert sources.fields("Args") == {
        "rank": Field(("int",), False, "16"),
        "kind": Field(("str",), True, '"auto"', ("auto", "half")),
        "names": Field(("list",), False, "[]"),
        "level": Field(("int",), False, "1", (0, 1)),
        "open": Field(("str",), False, '"other"'),
        "device": Field(("str",), True, "null"),
        "part": Field(("json",), False, ""),
        "mode": Field(("str",), False, '"a"', ("a", "b")),
        "wide": Field(("float",), False, ""),
    }


def test_fields_are_read_from_a_list_of_parameters() -> None:
    parameters = {
        "model": {"annotation": "Union[str, pathlib.Path]", "default": "inspect._empty"},
        "kv": {"annotation": "Optional[tensorrt_llm.llmapi.llm_args.KvCacheConfig]", "default": None},
        "kwargs": {"annotation": "Any", "default": "inspect._empty"},
    }
    assert listed_fields({"methods": {"__init__": {"parameters": parameters}}}) == {
        "model": Field(("str",), False, ""),
        "kv": Field(("json",), True, "null"),
    }


@pytest.mark.parametrize(
    ("name", "taken", "refused"),
    [
        # vllm 0.33.0: vllm/config/scheduler.py, cache.py, model.py
        ("max_num_seqs", (1, 256, True, "4"), (0, -1)),
        ("gpu_memory_utilization", (0.1, 1, 0.92), (0, 1.01, 90, float("nan"))),
        ("max_model_len", (-1, 8192), (-2,)),
        ("seed", (-5, 0, 10**30), ()),
    ],
)
def test_a_number_is_within_what_the_engine_says(
    name: str, taken: tuple[Any, ...], refused: tuple[Any, ...]
) -> None:
    argument = arguments("vllm")[name]
    assert all(argument.is_within(value) for value in taken)
    assert not any(argument.is_within(value) for value in refused)


def test_every_default_is_within_its_own_bounds() -> None:
    known = arguments("vllm")
    assert [name for name, argument in known.items() if not argument.is_within(argument.default)] == []
    assert sum(bool(argument.bounds) for argument in known.values()) > 40
    assert not any(argument.bounds for argument in arguments("tensorrtllm").values())


def test_bounds_are_read_from_a_class_of_any_name_but_one() -> None:
    text = "class A:\n    n: int = Field(default=1, ge=1, le=9)\nclass B:\n    n: int = Field(1, ge=5)\n    m: int = 2\n"
    assert Sources([text]).bounds(besides="B") == {"n": "at least 1, at most 9"}
