"""What people write for a setting, on the command line, in a file or a notebook → values of Triton's types, or one error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.perf.sweep.test_sweep import COUNT, CURRENT, DELAY, spec
from tritonsmith.builder.base.errors import TritonsmithError
from tritonsmith.perf.commands.sweep.flags import settings, spec_from_flags
from tritonsmith.perf.sweep.plan import (
    config_path,
    plan_arms,
    setting_from_text,
    spec_from_mapping,
    spec_from_yaml,
)

PREFERRED = "dynamic_batching.preferred_batch_size"
UTILIZATION = "sequence_batching.direct.minimum_slot_utilization"
OF_EP = "optimization.execution_accelerators.cpu_execution_accelerator.parameters"


def error_of(text: str) -> TritonsmithError:
    with pytest.raises(TritonsmithError) as error:
        setting_from_text(text)
    assert error.value.exit_code == 2
    return error.value


@pytest.mark.parametrize(
    ("text", "path", "values", "why"),
    [
        (f"{COUNT}=1,2", COUNT, [1, 2], "whole numbers"),
        (f" {COUNT} = 1 , 2 ", COUNT, [1, 2], "spaces around names and values mean nothing"),
        (f"{COUNT}=1..4", COUNT, [1, 2, 3, 4], "a range is each of its whole numbers"),
        (f"{COUNT}=1..2,8", COUNT, [1, 2, 8], "a range may stand beside a value"),
        ("client.batch_size=1..2", "client.batch_size", [1, 2], "also of the client"),
        ("parameters.K=1..4", "parameters.K.string_value", ["1..4"], "but not where the field holds text"),
        (f"{DELAY}=18446744073709551615", DELAY, [2**64 - 1], "the largest uint64"),
        ("instance_group.kind=KIND_CPU,KIND_GPU", "instance_group.kind", ["KIND_CPU", "KIND_GPU"], "names of an enum"),
        ("response_cache.enable= true , false ", "response_cache.enable", [True, False], "true and false"),
        (f"{UTILIZATION}=0,.5,1e-1", UTILIZATION, [0.0, 0.5, 0.1], "numbers with a fraction"),
        ("parameters.K=1e3,yes,0x10,null", "parameters.K.string_value", ["1e3", "yes", "0x10", "null"], "text is text"),
        ("parameters.K=010,1:30,~", "parameters.K.string_value", ["010", "1:30", "~"], "whatever YAML would make of it"),
        ('parameters.K="a,b"', "parameters.K.string_value", ["a,b"], "quotes protect a comma"),
        ("parameters.K='a,b',c", "parameters.K.string_value", ["a,b", "c"], "single ones too"),
        ('parameters.K=""', "parameters.K.string_value", [""], "and are the empty text"),
        ("parameters.K=it's", "parameters.K.string_value", ["it's"], "an apostrophe inside a word is none"),
        ("parameters.K=a=b", "parameters.K.string_value", ["a=b"], "only the first equals sign divides"),
        ('parameters.K={"a": [1, 2]}', "parameters.K.string_value", ['{"a": [1, 2]}'], "JSON is one text"),
        ("parameters.K.string_value=2", "parameters.K.string_value", ["2"], "the whole path of a parameter"),
        ('parameters."a.b"=x', 'parameters."a.b".string_value', ["x"], "a key with a dot"),
        ("parameters.'a=b:c'=x", 'parameters."a=b:c".string_value', ["x"], "or with other signs"),
        ('parameters."a"=x', "parameters.a.string_value", ["x"], "quotes that are not needed are left out"),
        (f'{OF_EP}."x.y"=1', f'{OF_EP}."x.y"', ["1"], "a map of plain text"),
        (f"{PREFERRED}=[4],[8]", PREFERRED, [[4], [8]], "two lists"),
        (f"{PREFERRED}=[4, 8]", PREFERRED, [[4, 8]], "one list"),
        (f"{PREFERRED}[0]=4,8", f"{PREFERRED}[0]", [4, 8], "an element of a list"),
        ("dynamic_batching=null,{}", "dynamic_batching", [None, {}], "without a field, and with it as Triton fills it"),
        (
            "instance_group=[{kind: KIND_CPU, count: 2}]",
            "instance_group",
            [[{"kind": "KIND_CPU", "count": 2}]],
            "messages",
        ),
        ("parameters={a: 4}", "parameters", [{"a": {"string_value": "4"}}], "a whole map"),
        (f"tok:{COUNT}=1,2", f"tok:{COUNT}", [1, 2], "of another composing model"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " in value else "",
)  # fmt: skip
def test_a_value_is_read_by_the_type_of_its_field(text: str, path: str, values: list[Any], why: str) -> None:
    read = setting_from_text(text)
    assert read == (path, values), why
    assert [type(value) for value in read[1]] == [type(value) for value in values], why


@pytest.mark.parametrize(
    ("text", "said", "fix", "why"),
    [
        (f"{COUNT}=010", "leading zeros", f"--set {COUNT}=10", "octal is not read, nor taken for decimal"),
        (f"{UTILIZATION}=00.5", "leading zeros", f"--set {UTILIZATION}=0.5", "also of fractions"),
        (f"{COUNT}=1:30", "whole number", f"--set {COUNT}=1,2", "base 60 is not read"),
        (f"{COUNT}=1e3", "whole number", f"--set {COUNT}=1000", "what was meant is named"),
        (f"{COUNT}=4,0x10", "whole number", f"--set {COUNT}=4,16", "in the flag as it was"),
        (f"{COUNT}=1_000", "whole number", f"--set {COUNT}=1000", "no underscores"),
        (f"{COUNT}=2.0", "whole number", f"--set {COUNT}=2", "no fraction"),
        (f"{COUNT}=+2", "whole number", f"--set {COUNT}=2", "no plus"),
        (f"{COUNT}=\u0664", "whole number", f"--set {COUNT}=4", "digits are ASCII"),
        (f"{COUNT}=1,x", "whole number", f"--set {COUNT}=1", "a word is left out"),
        (f"{COUNT}=true", "whole number", f"--set {COUNT}=1,2", "a truth is no number"),
        (f"{COUNT}=2147483648", "1 to 2147483647", f"--set {COUNT}=1,2", "above int32"),
        (f"{COUNT}={'9' * 5000}", "1 to 2147483647", f"--set {COUNT}=1,2", "far above"),
        (f"{COUNT}=0", "1 to 2147483647", f"--set {COUNT}=1,2", "Triton would take its default"),
        (f"{DELAY}=-1", "0 to 18446744073709551615", f"--set {DELAY}=1,2", "an unsigned field"),
        (f"{DELAY}=18446744073709551616", "0 to 18446744073709551615", f"--set {DELAY}=1,2", "above uint64"),
        (f"{PREFERRED}=[0]", "1 to 2147483647", f"--set '{PREFERRED}=[4],[8]'", "Triton refuses it"),
        (f"{UTILIZATION}=1e99", "finite", f"--set {UTILIZATION}=0.5,1", "above a float"),
        (f"{UTILIZATION}=nan", "a number (float)", f"--set {UTILIZATION}=0.5,1", "not a number"),
        (f"{COUNT}=4..1", "go up", f"--set {COUNT}=1..4", "a range goes up"),
        (f"{COUNT}=1..100000", "up to 10000", f"--set {COUNT}=1,2", "a range has an end"),
        (f"{COUNT}=01..4", "leading zeros", f"--set {COUNT}=1..4", "its ends are whole numbers"),
        ("response_cache.enable=yes", "true or false", "--set response_cache.enable=true", "one spelling of a truth"),
        ("response_cache.enable=True", "true or false", "--set response_cache.enable=true", "in small letters"),
        ("response_cache.enable=0,true", "true or false", "--set response_cache.enable=false,true", "0 is a number"),
        ("instance_group.kind=KIND_CPUU", "KIND_MODEL", "--set instance_group.kind=KIND_CPU", "the nearest name"),
        ("instance_group.kind=gpu", "KIND_MODEL", "--set instance_group.kind=KIND_GPU", "or what it ends in"),
        ("instance_group.kind=2", "KIND_MODEL", "--set instance_group.kind=KIND_AUTO,KIND_GPU", "no numbers"),
        (f"{PREFERRED}=4,8", "[4],[8] (2 arms), [4,8] (one arm)", f"--set '{PREFERRED}=[4],[8]' or", "lists or a list"),
        (f"{PREFERRED}=4", "valid: [4]", f"--set '{PREFERRED}=[4]'", "one value"),
        (f"{PREFERRED}=[4],8", "takes a list", f"--set '{PREFERRED}=[4],[8]'", "one of them"),
        (f"{PREFERRED}=[4,null]", "no null", f"--set '{PREFERRED}=[4],[8]'", "an element is there"),
        ("dynamic_batching=true", "max_queue_delay_microseconds=…", "--set 'dynamic_batching=null,{}'", "a message"),
        (
            "dynamic_batching={max_queue_delay: 5}",
            "no field 'max_queue_delay'",
            "--set 'dynamic_batching={max_queue_delay_microseconds: 5}'",
            "a field inside a message",
        ),
        ("instance_group.cuont=1,2", "no field 'cuont'", f"--set {COUNT}=1,2", "the nearest field, the few listed"),
        ("instance_groups.count=1,2", "no field 'instance_groups'", f"--set {COUNT}=1,2", "at the top"),
        ("max_queue_delay_microseconds=0", "no field", f"--set {DELAY}=0", "without its parent"),
        ("dynamic_batching.max_queue_delay=0", "preferred_batch_size", f"--set {DELAY}=0", "without its unit"),
        ("max_batch_size.deeper=1", "is a value and has no field", None, "nothing lies within a number"),
        ("parameters.a.b=x", "no field 'b'", "--set 'parameters.\"a.b\"=x'", "a key with a dot, as the shell takes it"),
        (f"{OF_EP}.x.y=1", "no field 'y'", f"--set '{OF_EP}.\"x.y\"=1'", "of a map of text"),
        ("parameters.a[0]=x", "quoted", "--set instance_group.count=1,2", "a key with brackets"),
        ("max_batch_size[0]=3", "no list", "--set max_batch_size=3", "an element of a number"),
        ("a..b=1", "not a path", f"--set {COUNT}=1,2", "no name between the dots"),
        ("instance_group[x].count=1", "not a path", f"--set {COUNT}=1,2", "elements are counted"),
        ("client.batch_sze=1,2", "valid: client.batch_size", "--set client.batch_size=1,2", "the nearest of the client"),
        ("client.concurrency=1,2", "valid: client.batch_size", "--concurrency 1,8,32", "load points are a flag"),
        ("client.batch_size=0", "1 to 2147483647", "--set client.batch_size=1,2", "a request has an inference"),
        ("client.batch_size=null", "always there", "--set client.batch_size=1,2", "and always one"),
        ("name=x", "known by", None, "the model's name"),
        ("model_transaction_policy.decoupled=true,false", "protocol of the requests", "measure each", "other requests"),
        ("model_transaction_policy={decoupled: true}", "protocol of the requests", "measure each", "whole, too"),
        ("input.dims=[3],[4]", "the same for all arms", None, "other requests"),
        (f"{COUNT}=", f"{COUNT} is given no value", f"--set {COUNT}=1,2", "no value"),
        (f"{COUNT}=  ", f"{COUNT} is given no value", f"--set {COUNT}=1,2", "nothing but spaces"),
        (COUNT, "PATH=VALUE", f"--set {COUNT}=1,2", "no equals sign"),
        ("=1", "PATH=VALUE", f"--set {COUNT}=1,2", "no path"),
        (f"{COUNT}=1,,2", "is empty", f"--set {COUNT}=V1,V2", "an empty value"),
        (f"{COUNT}=1,", "is empty", f"--set {COUNT}=V1,V2", "a comma at the end"),
        (f"{COUNT}=[1", "']' is missing", "in pairs", "half a bracket"),
        (f"{PREFERRED}=4]", "closes nothing", "in pairs", "the other half"),
        ("parameters.K='tis", "is not closed", "in pairs", "half a pair of quotes"),
        (f"{PREFERRED}=[4: {{]}}", "closes nothing", "in pairs", "brackets that cross"),
        (f"{PREFERRED}=[*a]", "cannot be read", None, "what is no flow YAML"),
        (f"{COUNT}=1,1", "1 twice", f"--set {COUNT}=1", "a value twice"),
        (f"{COUNT}=1..4,2", "2 twice", f"--set {COUNT}=1..4", "one within a range"),
        (f"{UTILIZATION}=0.5,.50", "0.5 twice", f"--set {UTILIZATION}=0.5", "in another spelling"),
        (f"{PREFERRED}=[4,8],[4, 8]", "[4, 8] twice", f"--set '{PREFERRED}=[4,8]'", "a list twice"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " in value and len(value) < 50 else "",
)  # fmt: skip
def test_bad_input_is_one_error_with_the_flag_that_is_meant(
    text: str, said: str, fix: str | None, why: str
) -> None:
    error = error_of(text)
    assert said in str(error), why
    assert error.seen is not None, why
    assert error.fix is None if fix is None else str(error.fix).startswith(fix) or fix in str(error.fix), why


@given(st.integers(-(2**70), 2**70))
def test_a_whole_number_is_taken_exactly_when_its_type_has_it(number: int) -> None:
    if 0 <= number < 2**64:
        assert setting_from_text(f"{DELAY}={number}") == (DELAY, [number])
    else:
        assert "0 to 18446744073709551615" in str(error_of(f"{DELAY}={number}"))


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters='"'), max_size=20))
def test_any_text_in_quotes_is_taken_as_it_is_and_any_key_is_read_again(text: str) -> None:
    assert setting_from_text(f'parameters.K="{text}"')[1] == [text]
    path = config_path.path_of((("parameters", None), (text, None)))
    assert config_path.segments_of(path) == (("parameters", None), (text, None))


def test_a_key_with_dots_is_set_read_and_named() -> None:
    path, (value,) = setting_from_text('parameters."a.b"=2')
    config = config_path.with_values(CURRENT, {path: value})
    assert config["parameters"] == {"a.b": {"string_value": "2"}}
    assert config_path.read(config, path) == "2"
    assert config_path.differences(config, CURRENT, {path: value}) == [f"{path} is None, not 2"]
    assert config_path.label({path: value, "parameters.threads.string_value": "4"}) == "a.b 2, threads 4"


class TestSpace:
    @pytest.mark.parametrize(
        ("first", "second", "said"),
        [
            (f"{COUNT}=1", f"{COUNT}=2", "given twice"),
            ("parameters.K=1", "parameters.K.string_value=2", "given twice"),
            (f"{COUNT}=1", f"m:{COUNT}=2", "given twice"),
            (f"{COUNT}=1", "instance_group[0].count=2", "lies within"),
            ("dynamic_batching=null,{}", f"{DELAY}=0,500", "lies within"),
            (f"{DELAY}=0,500", "dynamic_batching=null,{}", "lies within"),
            ("instance_group=[{count: 2}]", f"{COUNT}=1,2", "lies within"),
        ],
    )  # fmt: skip
    def test_no_setting_overwrites_another(self, first: str, second: str, said: str) -> None:
        with pytest.raises(TritonsmithError) as error:
            spec_from_mapping({"model": "m", "space": settings([first, second])})
        assert said in str(error.value) and error.value.exit_code == 2 and error.value.fix

    def test_elements_and_models_stand_beside_each_other(self) -> None:
        space = settings(["instance_group[0].count=1,2", "instance_group[1].count=1,2", f"t:{COUNT}=1,2"])
        assert len(spec_from_mapping({"model": "m", "load_model": "pipe", "space": space}).space) == 3

    def test_values_of_a_notebook_are_read_by_the_same_types(self) -> None:
        space = {COUNT: [1, "2"], "parameters.K": [1, True, 0.5, "x", None], PREFERRED: ((4, "8"), [2])}
        read = spec_from_mapping({"model": "m", "space": space}).space
        assert read == {
            COUNT: [1, 2],
            "parameters.K.string_value": ["1", "true", "0.5", "x", None],
            PREFERRED: [[4, 8], [2]],
        }
        assert spec_from_mapping({"model": "m", "space": read}).space == read, (
            "what is read comes out as it is"
        )

    @pytest.mark.parametrize(
        ("line", "said", "fix"),
        [
            ("instance_group.count: [1, 010]", "leading zeros", "10 in place of 010"),
            ("instance_group.count: [1, 1:30]", "whole number", None),
            ("instance_group.count: [1, yes]", "whole number", None),
            ("instance_group.count: [1, '1']", "1 twice", "leave one"),
            ("instance_group.count: 1", "needs a list", "instance_group.count: [1]"),
            ("instance_group.count: []", "no values", "instance_group.count: [1,2]"),
            ("instance_group.cuont: [1]", "no field 'cuont'", "instance_group.count"),
            ("dynamic_batching.preferred_batch_size: [4, 8]", "[[4], [8]] (2 arms), [[4, 8]] (one arm)", None),
            ("response_cache.enable: [on]", "true or false", "true in place of on"),
            ("instance_group.kind: [KIND_CPUU]", "KIND_GPU", "KIND_CPU in place of KIND_CPUU"),
            ("client.batch_size: [0]", "1 to", None),
            ("max_batch_size: [0, 8]", "changes the requests", "1 in place of 0"),
            ("max_batch_size: [2, 8]", "takes no request of batch size 4", "--batch-size 2"),
        ],
    )  # fmt: skip
    def test_a_file_is_told_by_its_line(self, tmp_path: Path, line: str, said: str, fix: str | None) -> None:
        file = tmp_path / "sweep.yaml"
        file.write_text(f"model: m\nbatch_size: 4\nspace:\n  {DELAY}: [0, 500]\n  {line}\n")
        with pytest.raises(TritonsmithError) as error:
            spec_from_yaml(file)
        assert str(error.value.where) == f"{file}:5"
        assert said in str(error.value) and error.value.exit_code == 2
        assert error.value.fix == fix or (fix is not None and fix in str(error.value.fix))

    def test_a_wrong_value_of_several_is_told_by_its_own_line(self, tmp_path: Path) -> None:
        file = tmp_path / "sweep.yaml"
        file.write_text("model: m\nspace:\n  instance_group.count:\n  - 1\n  - two\n")
        with pytest.raises(TritonsmithError) as error:
            spec_from_yaml(file)
        assert str(error.value.where) == f"{file}:5"

    def test_a_file_has_the_types_of_the_flags(self, tmp_path: Path) -> None:
        file = tmp_path / "sweep.yaml"
        file.write_text(
            "model: m\nspace:\n  instance_group.count: [1..2, \"4\"]\n  parameters.K: [yes, 010, 1e3, null, 'null']\n"
        )
        assert spec_from_yaml(file).space == {
            COUNT: [1, 2, 4],
            "parameters.K.string_value": ["yes", "010", "1e3", None, "null"],
        }

    def test_flags_stand_in_for_a_files_keys_before_anything_is_checked(self, tmp_path: Path) -> None:
        file = tmp_path / "sweep.yaml"
        file.write_text("batch_size: 4\nspace: {max_batch_size: [2, 8]}\n")
        assert spec_from_flags(file, {"model": "m", "batch_size": 2}).model == "m"
        with pytest.raises(TritonsmithError, match="no field 'cuont'") as error:
            spec_from_flags(file, {"model": "m", "space": {"instance_group.cuont": [1]}})
        assert error.value.where is None, "it is not of the file"

    @pytest.mark.parametrize("sizes", [[0], [8, 0], [None], ["0"]])
    def test_a_max_batch_size_of_0_is_refused_before_any_server_starts(self, sizes: list[Any]) -> None:
        with pytest.raises(TritonsmithError, match="changes the requests") as error:
            spec_from_mapping({"model": "m", "space": {"max_batch_size": sizes}})
        assert error.value.exit_code == 2 and str(error.value.fix).startswith("1 in place of 0")

    @pytest.mark.parametrize(
        ("now", "then", "said"),
        [(8, 0, "without batching"), (0, 8, "with batching")],
    )
    def test_a_max_batch_size_that_changes_the_requests_is_refused(
        self, now: int, then: int, said: str
    ) -> None:
        current = {**CURRENT, "max_batch_size": now}
        with pytest.raises(TritonsmithError, match="changes the requests") as error:
            plan_arms(spec(space={"max_batch_size": [then]}), current)
        assert said in str(error.value) and error.value.exit_code == 2 and error.value.fix

    def test_a_max_batch_size_that_takes_some_of_the_requests_leaves_the_others_out(self) -> None:
        wanted = spec_from_mapping(
            {"model": "m", "space": {"max_batch_size": [4, 2], "client.batch_size": [1, 4]}}
        )
        plan = plan_arms(wanted, CURRENT)
        labels = [
            "max_batch_size 4, client batch 1",
            "max_batch_size 4, client batch 4",
            "max_batch_size 2, client batch 1",
        ]
        assert [arm.label for arm in plan.arms[2:]] == labels
        assert any(note.startswith("max_batch_size 2, client batch 4: left out") for note in plan.notes)
