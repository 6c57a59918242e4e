"""What people read of a plan: an entry a model, why in plain words, no digests, the counts last; many models stay few lines."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from tests.builder.plan.test_plan import LOCKED, SAME
from tritonsmith.builder.model_config.field_changes import FieldChange
from tritonsmith.builder.plan.observation import Observation
from tritonsmith.builder.plan.plan import BuildPlan, Outlook, make_plan
from tritonsmith.builder.plan.text import json_of_plan, markdown_of_plan, text_of_plan
from tritonsmith.builder.repository.lock import Lock

COUNT = FieldChange("instance_group[0].count", "1", "2")
OTHER_SPEC = {"config": {**LOCKED.config, "spec": "S" * 64}}
DIGEST = re.compile(r"[0-9a-f]{12}|[A-Z]{12}")


def changed(**what: object) -> Observation:
    return replace(SAME, **what)  # type: ignore[arg-type]


def a_plan() -> BuildPlan:
    observed = {
        "minilm": changed(**OTHER_SPEC),
        "crepe": changed(dependencies={"m.py": "b" * 64}, cached_key=None),
        "torchy": changed(tools={"torch": "2.14.0"}),
        "other": changed(parameters={"opset": 18}, **OTHER_SPEC),
        "lost": changed(files={"config.pbtxt": "c" * 64}),
        "bounds": changed(config={**LOCKED.config, "accuracy": "B" * 64}),
        "still": SAME,
        "fresh": changed(cached_key=None),
    }
    known = {name: model for name, model in dict.fromkeys(observed, LOCKED).items() if name != "fresh"}
    plan = make_plan(observed, Lock({**known, "gone": LOCKED}))
    return replace(
        plan,
        outlooks={
            "minilm": Outlook((COUNT,)),
            "crepe": Outlook((), rows_check=True),
            "fresh": Outlook(None, rows_check=True),
            "bounds": Outlook(()),
        },
    )


GOLDEN = """\
~ minilm  config.pbtxt  instance_group[0].count: 1 → 2
~ crepe   export        m.py changed
          then          rows check, accuracy
~ torchy  export        torch 2.13.0 → 2.14.0 (cached)
          then          accuracy
~ other   export        opset: 20 → 18 (cached)
          then          accuracy
~ lost    export        1/model.onnx is missing (cached)
          then          accuracy
~ bounds  accuracy      the bounds of accuracy changed
+ fresh   new           export, rows check, accuracy
- gone    remove        left models.yaml; its directory goes

1 model unchanged, 2 actions to run, 3 actions found in the cache
Plan: 1 to add, 6 to change, 1 to remove."""


def test_a_plan_is_an_entry_a_model_and_the_counts() -> None:
    assert text_of_plan(a_plan()) == GOLDEN


def test_all_of_it_is_told_when_asked_for() -> None:
    text = text_of_plan(a_plan(), verbose=True)
    assert "= still\n" in text and "          then          lay out\n" in text
    assert not DIGEST.search(text)


def test_colour_is_in_the_signs_alone_and_only_where_it_may_be() -> None:
    assert "\x1b" not in text_of_plan(a_plan())
    painted = text_of_plan(a_plan(), colour=True)
    assert "\x1b[32m+\x1b[0m fresh" in painted and "\x1b[31m-\x1b[0m gone" in painted
    assert re.sub(r"\x1b\[\d*m", "", painted) == GOLDEN
    evil = make_plan(
        {"m\x1b[2J": changed(dependencies={"\x1b[31mm.py\n~ other": "b" * 64})}, Lock({"m\x1b[2J": LOCKED})
    )
    shown = text_of_plan(evil, colour=True)
    assert set(re.findall(r"\x1b\[\d*\w", shown)) <= {"\x1b[33m", "\x1b[0m", "\x1b[1m"}
    assert len([line for line in shown.splitlines() if line.startswith("~ ")]) == 0


def test_eighty_columns_are_kept() -> None:
    name = "a_model_with_a_name_that_is_rather_long_for_a_table_v2"
    plan = make_plan(
        {name: changed(tools={f"package{n}": "1" for n in range(9)}, cached_key=None)}, Lock({name: LOCKED})
    )
    lines = text_of_plan(plan, 80).splitlines()
    assert max(map(len, lines)) <= 80 and "and 7 more" in " ".join(" ".join(lines).split())


def test_a_thousand_models_that_change_alike_are_one_entry() -> None:
    observed = {f"m{n:04}": changed(tools={"torch": "2.14.0"}) for n in range(1000)} | {
        "odd": changed(**OTHER_SPEC)
    }
    plan = make_plan(observed, Lock(dict.fromkeys(observed, LOCKED)))
    assert text_of_plan(plan).splitlines()[:4] == [
        "~ 1000 models  export        torch 2.13.0 → 2.14.0 (cached)",
        "               then          accuracy",
        "               models        m0000, m0001, m0002 and 997 more",
        "~ odd          config.pbtxt  what models.yaml says of it changed, or tritonsmith's version",
    ]
    assert len(text_of_plan(plan, verbose=True).splitlines()) > 1000


def test_a_thousand_models_that_change_otherwise_each_are_cut_short() -> None:
    observed = {f"m{n:04}": changed(dependencies={"m.py": "b" * 64, f"{n}.py": "c"}) for n in range(1000)}
    lines = text_of_plan(make_plan(observed, Lock(dict.fromkeys(observed, LOCKED)))).splitlines()
    assert len(lines) < 120 and "… and 950 more models: --verbose shows them" in lines
    assert lines[-1] == "Plan: 0 to add, 1000 to change, 0 to remove."


def test_many_fields_are_cut_short() -> None:
    many = tuple(FieldChange(f"parameters[{n}]", None, "x") for n in range(9))
    plan = replace(
        make_plan({"m": changed(**OTHER_SPEC)}, Lock({"m": LOCKED})), outlooks={"m": Outlook(many)}
    )
    assert "and 3 more fields: --verbose shows them" in text_of_plan(plan)
    assert "parameters[8]: none → x" in text_of_plan(plan, verbose=True)


@pytest.mark.parametrize(
    ("config", "said"), [((), "no field of it differs"), (None, "what models.yaml says of it")]
)
def test_a_config_that_comes_out_the_same_is_said_to(
    config: tuple[FieldChange, ...] | None, said: str
) -> None:
    plan = make_plan({"m": changed(**OTHER_SPEC)}, Lock({"m": LOCKED}))
    assert said in text_of_plan(replace(plan, outlooks={"m": Outlook(config)}))


def test_nothing_to_do() -> None:
    plan = make_plan({"m": SAME, "n": SAME}, Lock({"m": LOCKED, "n": LOCKED}))
    assert text_of_plan(plan) == "No changes: 2 models up to date\nPlan: 0 to add, 0 to change, 0 to remove."


def test_machines_are_told_more_than_before_and_nothing_less() -> None:
    told = json.loads(json.dumps(json_of_plan(a_plan())))
    first = told["actions"][0]
    assert {"model", "action", "state", "reason", "detail"} <= first.keys()
    crepe = next(a for a in told["actions"] if a["model"] == "crepe")
    assert crepe["changes"] == [{"name": "m.py", "old": "a" * 64, "new": "b" * 64}]
    assert crepe["detail"] == f"m.py: {'a' * 12} → {'b' * 12}"
    assert told["models"][0] == {
        "model": "minilm",
        "change": "change",
        "config": [{"path": "instance_group[0].count", "old": "1", "new": "2"}],
    }
    assert told["counts"] == {"add": 1, "change": 6, "remove": 1, "keep": 1}


def test_a_pull_request_reads_the_fields_and_no_digests() -> None:
    text = markdown_of_plan(a_plan())
    assert "| minilm | render | to run | spec_changed | instance_group[0].count: 1 → 2 |" in text.replace(
        "\\", ""
    )
    assert not DIGEST.search(text)
