"""The models of an ensemble in a sweep's report: what each did, which one holds it up, and what to sweep next."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from markupsafe import escape

from tests.perf.report.test_report import Page, run_result
from tests.perf.usage.test_members import counters
from tritonsmith.perf.records.typed import json_of
from tritonsmith.perf.report import html_of, markdown_of, report_json, text_of, write_report
from tritonsmith.perf.report.page.members import compositions, held_up_by
from tritonsmith.perf.report.page.next_step import next_steps
from tritonsmith.perf.sweep.run_record import RunResult, load_run, verdict_of, write_run
from tritonsmith.perf.sweep.trial import MemberConfig
from tritonsmith.perf.usage.counters import ServerCounters

ONE, TWO = {"instance_group": [{"count": 1}]}, {"instance_group": [{"count": 2}]}
QUEUED = {"detector": counters(1000, 7100, 900), "finder": counters(1000, 100, 300)}
"""minilm, the model that is swept, has 300 µs of queue and 990 of compute (test_report.counters)."""


def of_ensemble(
    others: Mapping[str, ServerCounters] | None = None,
    *,
    gain: float = 1.5,
    configs: Mapping[str, MemberConfig] | None = None,
    command: str = "",
    cores: int = 4,
) -> RunResult:
    """A sweep of minilm in the ensemble text_boxes, beside which a model is at work that is none of it."""
    run = run_result(gain=gain)
    spec = run.spec.model_copy(update={"load_model": "text_boxes", "beside": {"noise": 2}})
    others = dict(QUEUED if others is None else others)
    counted = {"text_boxes": counters(1000, 1, 9000), "noise": counters(50_000, 9000, 9000), **others}
    trials = tuple(replace(trial, others=counted) for trial in run.trials)
    arms = tuple(replace(arm, config={**arm.config, **(ONE if arm.baseline else TWO)}) for arm in run.arms)
    told = {name: MemberConfig(1) for name in others} if configs is None else configs
    environment = {
        **run.environment,
        "cores": cores,
        "command": command,
        "members": {name: json_of(c) for name, c in told.items()},
    }
    return replace(
        run,
        spec=spec,
        trials=trials,
        arms=arms,
        environment=environment,
        verdict=verdict_of(spec, arms, trials),
        directory=Path("run"),
    )


class TestNumbers:
    def test_each_member_has_its_part_at_each_load_and_what_is_none_of_them_has_no_row(self) -> None:
        found = compositions(of_ensemble())
        assert [(c.arm.id, c.concurrency) for c in found] == [
            (arm, point) for point in (1, 8) for arm in ("arm00", "arm01", "arm02")
        ]
        names = [row.member.name for row in found[0].rows]
        assert names == ["minilm", "detector", "finder"]
        assert [round(row.member.share, 3) for row in found[0].rows] == [0.133, 0.826, 0.041]

    def test_executions_a_second_are_by_the_ensembles_own_inferences(self) -> None:
        """3 rounds of 900, 990 and 1080 inferences/s; minilm runs batches of four."""
        rows = compositions(of_ensemble(gain=1.0))[0].rows
        assert [row.executions_per_s for row in rows] == pytest.approx([990 / 4, 990, 990], rel=0.01)
        assert rows[1].busy == pytest.approx(990 * 900e-6, rel=0.01)

    def test_a_model_beside_is_left_out_where_an_older_run_does_not_say_what_is_a_member(self) -> None:
        run = of_ensemble()
        older = replace(run, environment={k: v for k, v in run.environment.items() if k != "members"})
        (first, *_) = compositions(older)
        assert [row.member.name for row in first.rows] == ["minilm", "detector", "finder"]
        assert [row.busy is None for row in first.rows] == [False, True, True]

    @pytest.mark.parametrize(
        "members", [None, 3, ["detector"], {"detector": {"instances": 0}, "finder": "x"}]
    )
    def test_what_a_file_says_of_members_may_be_anything(self, members: Any) -> None:
        run = of_ensemble()
        assert html_of(replace(run, environment={**run.environment, "members": members}))

    def test_a_model_without_members_has_nothing_of_it(self, tmp_path: Path) -> None:
        run = run_result()
        assert compositions(run) == [] and held_up_by(run) is None
        assert not {"members", "held_up"} & report_json(run).keys()
        for text in (html_of(run), markdown_of(run)):
            assert "The models of" not in text
        assert write_report(run, tmp_path).members is None and not (tmp_path / "members.csv").exists()


class TestShown:
    def test_page_and_markdown_have_the_current_config_and_the_leader_at_each_load(self) -> None:
        run = of_ensemble()
        page = html_of(run).partition("The models of text_boxes")[2].partition("</section>")[0]
        assert page.count("bottleneck: queue") == 4  # two configs at two loads
        for where in ("at concurrency 1 · current config", "at concurrency 8 · count 2"):
            assert where in page
        assert "again" not in page and Page(html_of(run)).stack == []
        text = markdown_of(run).partition("The models of text\\_boxes")[2].partition("</details>")[0]
        assert text.count("| detector **(bottleneck: queue)** | 83 % | 7.10 | 0.900 | 1.0 |") == 4

    def test_a_members_name_is_text(self) -> None:
        run = of_ensemble({"<b>detector|": QUEUED["detector"]})
        assert "<b>detector" not in html_of(run)
        assert "| &lt;b&gt;detector\\| **" in markdown_of(run).partition("The models of")[2]

    def test_the_numbers_are_in_the_runs_json_and_csv(self, tmp_path: Path) -> None:
        run = replace(of_ensemble(), directory=tmp_path)
        write_run(run, tmp_path)
        again = load_run(tmp_path)
        files = write_report(again, tmp_path)
        assert files.members is not None and str(files.members) in files.names()
        rows = list(csv.DictReader(files.members.read_text().splitlines()))
        data = report_json(again)["members"]
        assert len(rows) == len(data) == 3 * 3 * 2
        detector = next(
            r for r in rows if (r["arm"], r["concurrency"], r["member"]) == ("arm00", "8", "detector")
        )
        assert (detector["mean_queue_ns"], detector["bottleneck"]) == ("7100000", "queue")
        assert float(detector["share_of_time"]) == pytest.approx(0.825, abs=1e-3)

    def test_a_report_of_no_ensemble_takes_the_file_of_an_earlier_one_away(self, tmp_path: Path) -> None:
        write_report(replace(of_ensemble(), directory=tmp_path), tmp_path)
        write_report(replace(run_result(), directory=tmp_path), tmp_path)
        assert not (tmp_path / "members.csv").exists()


HELD = "text_boxes spends 73 % of its time in detector's queue"
SAID: list[tuple[str, dict[str, Any], str]] = [
    ("an instance that never rests", {},
     "its one instance is at work {} of the time; more instances of detector are worth a sweep."),
    (
        "as many as cores",
        {"configs": {"detector": MemberConfig(2), "finder": MemberConfig(1)}, "cores": 2,
         "others": {**QUEUED, "detector": counters(1000, 7100, 1900)}},
        "as many as there are cores; only a cheaper execution of detector would shorten it.",
    ),
    (
        "a GPU's instances are not bounded by cores",
        {"configs": {"detector": MemberConfig(1, on_gpu=True), "finder": MemberConfig(1)}, "cores": 1},
        "more instances of detector are worth a sweep.",
    ),
    (
        "a batcher's delay",
        {"configs": {"detector": MemberConfig(4, 8000), "finder": MemberConfig(1)}},
        "wait out the max_queue_delay_microseconds of 8000; a shorter one is worth a sweep.",
    ),
    (
        "instances that rest, and no delay: nothing is known to help",
        {"configs": {"detector": MemberConfig(4), "finder": MemberConfig(1)}},
        "(at concurrency 8, current config).",
    ),
    (
        "its own compute",
        {"others": {**QUEUED, "detector": counters(1000, 100, 8000)}},
        "only a cheaper execution of detector (precision, larger batches) would shorten it.",
    ),
]  # fmt: skip


class TestBottleneck:
    @pytest.mark.parametrize(("given", "said"), [s[1:] for s in SAID], ids=[s[0] for s in SAID])
    def test_only_what_the_numbers_show_is_advised(self, given: dict[str, Any], said: str) -> None:
        told = held_up_by(of_ensemble(**{"gain": 1.0, **given}))
        assert told is not None and told.startswith("text_boxes spends ") and "in detector's " in told
        assert told.endswith(said.format("89 %"))

    def test_it_stands_under_the_verdict_in_every_form(self) -> None:
        run = of_ensemble()
        told = held_up_by(run)
        assert told is not None and told.startswith(f"{HELD}") and "(at concurrency 8, count 2)" in told
        assert escape(told) in html_of(run) and told in text_of(run) and report_json(run)["held_up"] == told
        assert HELD.replace("_", "\\_") in markdown_of(run)

    def test_instances_that_were_measured_and_are_no_better_are_not_advised(self) -> None:
        """The swept model itself is the slow one; two instances of it are an arm."""
        run = of_ensemble({"finder": counters(1000, 10, 10)}, gain=1.0)
        slow = replace(counters(1000, 6000, 1000))
        trials = tuple(replace(trial, server=slow) for trial in run.trials)
        told = held_up_by(replace(run, trials=trials))
        assert told is not None and told.endswith("more of them were measured, and are no better.")
        assert [
            step for step in next_steps(replace(run, trials=trials)) if "-m" in step.command.split()
        ] == []

    def test_without_a_member_that_has_most_of_the_time_nothing_is_said(self) -> None:
        even = {name: counters(1000, 300, 990) for name in ("detector", "finder")}
        run = of_ensemble(even)
        assert held_up_by(run) is None and "bottleneck" not in html_of(run).partition("<main>")[2]


class TestNextStep:
    @pytest.mark.parametrize(
        ("command", "next_"),
        [
            ("", "tritonsmith sweep -m detector --load-model text_boxes"),
            ("tritonsmith demo", "tritonsmith sweep -m detector --load-model text_boxes"),
            (
                "tritonsmith sweep repo -m minilm --load-model=text_boxes --set instance_group.count=1,2 -c 1,8 "
                "--variants v --resume -o run --data images.npz",
                "tritonsmith sweep repo -c 1,8 --data images.npz -m detector --load-model text_boxes",
            ),
        ],
    )
    def test_the_member_to_sweep_is_the_last_step_with_the_runs_own_data(
        self, command: str, next_: str
    ) -> None:
        step = next_steps(of_ensemble(command=command))[-1]
        assert step.command == next_
        assert step.text.startswith(
            "Most of text_boxes's time goes to detector, which this sweep did not change"
        )

    def test_a_member_whose_settings_were_swept_is_not_named_again(self) -> None:
        run = of_ensemble()
        space = {**run.spec.space, "detector:instance_group.count": [1, 2]}
        swept = replace(run, spec=run.spec.model_copy(update={"space": space}))
        assert all("detector" not in step.command for step in next_steps(swept))
