"""run.jsonl read while it grows; how the race then stands, and how often it is judged."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.perf.sweep.live_runs import SPEC, arms_of, begun, event, journal, start_of, trial_of, write
from tritonsmith.builder.base.errors import UsageError
from tritonsmith.perf.records.typed import json_of
from tritonsmith.perf.sweep.live.follow import Follower, journal_identity
from tritonsmith.perf.sweep.live.race import Race, RaceWatch
from tritonsmith.perf.sweep.plan import Trial
from tritonsmith.perf.sweep.run_record import RunResult, run_from_journal

ARMS = arms_of(3)
EVENTS = [
    event("kept", number=0),
    *itertools.islice(journal(ARMS, {"arm02": 1.5}, rounds=1), 9),
    event("note", text="The server died in trial 3, of count 2, and was started again."),
    event("arm", **json_of(arms_of(4)[-1])),
    event("arm_failed", arm_id="arm03", error="Triton refused it"),
    event("arm_dropped", arm_id="arm04", why="far behind"),
    event("end", stop_reason="it was enough", complete=True, interrupted=False, wall_s=7.5),
]


def whole(lines: list[str]) -> RunResult:
    """What the report would read of these lines, but for the verdict, which is the race's."""
    return run_from_journal([line.rstrip("\n") for line in lines])


def trials_in(follower: Follower) -> int | None:
    """How many it knows of; None before the run begins."""
    return None if follower.run is None else len(follower.run.trials)


def looked(directory: Path) -> Race:
    race = RaceWatch(Follower(directory)).look()
    assert race is not None
    return race


class TestFollow:
    @settings(max_examples=25, deadline=None)
    @given(cuts=st.lists(st.integers(0, len("".join(EVENTS).encode())), max_size=6))
    def test_in_whatever_pieces_it_comes_the_run_is_the_one_that_a_report_would_read(
        self, cuts: list[int], tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        directory = tmp_path_factory.mktemp("follow")
        data = "".join(EVENTS).encode()
        follower = Follower(directory)
        assert not follower.read() and trials_in(follower) is None
        for begin, end in itertools.pairwise([0, *sorted(cuts), len(data)]):
            with (directory / "run.jsonl").open("ab") as file:
                file.write(data[begin:end])
            follower.read()
        assert follower.run is not None and follower.is_over
        expected = whole(EVENTS)
        assert replace(follower.run, verdict=expected.verdict, directory=None) == expected
        assert follower.news.startswith("The server died") and follower.step is not None

    def test_a_journal_that_lay_there_before_is_not_this_run(self, tmp_path: Path) -> None:
        write(tmp_path, EVENTS)
        follower = Follower(tmp_path, journal_identity(tmp_path))
        assert not follower.read() and trials_in(follower) is None
        new = write(tmp_path / "new", [start_of(SPEC, ARMS)])
        (new / "run.jsonl").replace(tmp_path / "run.jsonl")
        assert follower.read() and trials_in(follower) == 0

    def test_another_run_in_its_place_is_followed_from_its_beginning(self, tmp_path: Path) -> None:
        follower = Follower(write(tmp_path, EVENTS))
        follower.read()
        assert trials_in(follower) == 4
        new = write(tmp_path / "new", [start_of(SPEC, ARMS), *EVENTS[2:4]])
        (new / "run.jsonl").replace(tmp_path / "run.jsonl")
        assert follower.read() and trials_in(follower) == 1 and not follower.is_over

    @pytest.mark.parametrize(
        "lines",
        [
            ["nonsense\n"],
            ["[]\n"],
            [EVENTS[3]],
            [EVENTS[1], EVENTS[3].replace("arm00", "arm77").replace("arm01", "arm77")],
            [EVENTS[1], event("step", text=1)],
            [EVENTS[1], event("end")],
        ],
    )
    def test_what_is_no_journal_is_one_error(self, lines: list[str], tmp_path: Path) -> None:
        with pytest.raises(UsageError) as caught:
            Follower(write(tmp_path, lines)).read()
        assert caught.value.code == "run_damaged"


class TestRace:
    def test_the_best_comes_first_and_each_has_its_outcome(self, tmp_path: Path) -> None:
        lines = [*journal(ARMS, {"arm03": 1.5, "arm04": 0.5})][:-1]
        race = looked(write(tmp_path, lines))
        assert [(row.label, row.rounds, row.state) for row in race.rows] == [
            ("current config", 3, "current"),
            ("count 3", 3, "ahead"),
            ("count 2", 3, "racing"),
            ("count 4", 3, "racing"),
        ]
        assert {cell.outcome for cell in race.rows[1].cells} == {"better"}
        assert {cell.outcome for cell in race.rows[3].cells} == {"worse"}
        best = race.rows[1].cells[0]
        assert best.low is not None and best.high is not None and best.low < 1.5 < best.high
        assert all(cell.resolution is not None for cell in race.rows[0].cells)
        assert race.sentence.startswith("Winner: count 3") and race.points == (1, 8, 32)

    def test_who_is_out_says_why_and_comes_last(self, tmp_path: Path) -> None:
        lines = [*journal(ARMS, {"arm03": 1.5, "arm04": 0.5})][:-1]
        lines += [event("arm_failed", arm_id="arm03", error="out of memory")]
        lines += [event("arm_dropped", arm_id="arm04", why="far behind")]
        race = looked(write(tmp_path, lines))
        assert [(row.label, row.state, row.why) for row in race.rows[2:]] == [
            ("count 4", "dropped", "far behind"),
            ("count 3", "broken", "out of memory"),
        ]

    @pytest.mark.parametrize("confirms", [True, False])
    def test_finals_are_about_one_config(self, confirms: bool, tmp_path: Path) -> None:
        lines = [*journal(ARMS, {"arm03": 1.5})][:-1]
        final = Trial(90, 3, "arm03", 8, confirms, settles=not confirms)
        lines += [begun(final, "round 4, concurrency 8: count 3", 45, 54)]
        lines += [event("trial", **json_of(trial_of(final, 450.0)))]
        # The current config beside it: the row that is in the finals stays the same.
        lines += [
            begun(replace(final, number=91, arm_id="arm00"), "round 4, concurrency 8: current config", 46, 54)
        ]
        states = {row.label: row.state for row in looked(write(tmp_path, lines)).rows}
        assert states["count 3"] == ("confirming" if confirms else "settling")
        assert states["count 2"] == "racing"

    def test_the_time_left_is_of_the_budget_or_else_estimated(self, tmp_path: Path) -> None:
        lines = [*journal(ARMS, {}, rounds=1)]
        with_budget = RaceWatch(Follower(write(tmp_path / "a", lines[:8])))
        race = with_budget.look()
        assert race is not None and race.has_budget
        assert race.left_s == pytest.approx(60 - 4 - 3 * 1.2, abs=2)
        spec = SPEC.model_copy(update={"budget_s": None})
        race = looked(write(tmp_path / "b", [*journal(ARMS, {}, rounds=1, spec=spec)][:8]))
        assert not race.has_budget and (race.done, race.expected) == (3, 15)
        assert race.left_s == pytest.approx(12 * 1.2)

    def test_at_the_end_it_says_so(self, tmp_path: Path) -> None:
        race = looked(write(tmp_path, [*journal(ARMS, {"arm03": 1.5})]))
        assert race.is_over and race.stop_reason == "all 3 rounds were measured" and race.used_s == 99.0
        assert [row.state for row in race.rows] == ["current", "winner", "measured", "measured"]
        assert race.left_s is None and race.doing == ""

    def test_judging_takes_a_small_part_of_the_time(self, tmp_path: Path) -> None:
        """With 100 configs a verdict takes a good part of a second: trials that come right after it wait to be judged."""
        lines = [*journal(arms_of(100), {"arm03": 1.5}, rounds=2)]
        watch = RaceWatch(Follower(write(tmp_path, lines[:-7])))
        before = watch.look()
        with (tmp_path / "run.jsonl").open("a") as file:
            file.writelines(lines[-7:-1])
        between = watch.look()
        assert before is not None and between is not None and between.done == before.done + 3
        assert [row.cells for row in between.rows] == [row.cells for row in before.rows]
        with (tmp_path / "run.jsonl").open("a") as file:
            file.write(lines[-1])
        after = watch.look()
        assert after is not None and [row.cells for row in after.rows] != [row.cells for row in before.rows]
