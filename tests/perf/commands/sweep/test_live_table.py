"""The table of a race on terminals: wide, narrow, dumb, resized, left by a Ctrl-C or an error."""

from __future__ import annotations

import fcntl
import itertools
import os
import re
import struct
import sys
import termios
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.perf.sweep.live_runs import SPEC, arms_of, event, journal, write
from tests.terminal import CTRL_C, Shown, Terminal, plain
from tritonsmith.builder.base.text.text_layout import cells
from tritonsmith.perf.commands.sweep.live_table import live_lines
from tritonsmith.perf.sweep.live.follow import Follower
from tritonsmith.perf.sweep.live.race import Race, RaceWatch

GAINS = {"arm02": 1.5, "arm03": 0.5}


def race_of(directory: Path, lines: list[str]) -> Race:
    race = RaceWatch(Follower(write(directory, lines))).look()
    assert race is not None
    return race


@pytest.fixture(scope="module")
def race(tmp_path_factory: pytest.TempPathFactory) -> Race:
    lines = [*journal(arms_of(3), GAINS, spec=SPEC.model_copy(update={"budget_s": None}))]
    dropped = event("arm_dropped", arm_id="arm03", why="far behind")
    return race_of(tmp_path_factory.mktemp("race"), [*lines[:-2], dropped])


class TestLines:
    def test_on_a_wide_terminal_all_of_it(self, race: Race) -> None:
        text = "\n".join(live_lines(race, 100, 30))
        assert "crepe: × the current config's throughput\n" in text
        assert re.search(r"at 1 +8 +32 +rounds +state\n", text)
        assert re.search(r"  current config +±\d\.\d% +±\d\.\d% +±\d\.\d% +3 +current\n", text)
        assert re.search(r"▶ count 2( +▲ 1\.\d\d 1\.\d\d–1\.\d\d){3} +3 +ahead\n", text)
        assert re.search(r"  count 3( +▼ 0\.\d\d 0\.\d\d–0\.\d\d){3} +3 +dropped\n", text)
        assert "▲ better  ▼ worse" in text
        assert "round 3, concurrency 32: count 4\n━━━━━━━━━━━━━━  44 of 45 trials  0:00:5" in text
        assert text.endswith("  about 0:00:01 left")

    def test_at_80_columns_the_intervals_are_short(self, race: Race) -> None:
        text = "\n".join(live_lines(race, 80, 24))
        assert re.search(r"▶ count 2( +▲ 1\.\d\d ±\d\.\d%){3} +3 +ahead\n", text)

    def test_at_40_columns_the_ratios_stay(self, race: Race) -> None:
        lines = live_lines(race, 40, 24)
        assert re.search(r"▶ count 2( +▲ 1\.\d\d){3}", "\n".join(lines))
        assert max(map(cells, lines)) <= 40

    def test_200_configs_fit_every_terminal(self, tmp_path: Path) -> None:
        arms = arms_of(201, "instance_group.count {}, max_queue_delay\x1b[2J 5000 µs, 検出器".format)
        spec = SPEC.model_copy(update={"concurrency": (1, 8)})
        lines = [*journal(arms, GAINS, rounds=1, spec=spec)][:-1]
        lines += [event("arm_failed", arm_id=f"arm{i}", error="no") for i in (150, 151)]
        race = race_of(tmp_path, lines)
        for columns, height in itertools.product((12, 20, 40, 60, 80, 200), (5, 24, 60)):
            drawn = live_lines(race, columns, height)
            assert len(drawn) <= height and max(map(cells, drawn)) <= columns
            assert "\x1b" not in "".join(drawn)
            if height == 24 and columns >= 60:
                assert "  … 191 more: 189 racing, 2 broken" in drawn

    def test_before_the_first_trial_ends_there_is_nothing_to_compare(self, tmp_path: Path) -> None:
        text = "\n".join(live_lines(race_of(tmp_path, [*journal(arms_of(1), {})][:2]), 80, 24))
        assert re.search(r"  count 2 +0 +racing\n", text) and "undecided" not in text


# A sweep's progress, its journal growing meanwhile, as the command shows it.
REPLAY = """
import sys, time
from pathlib import Path
from tritonsmith.builder.base.text.console import note
from tritonsmith.perf.commands.sweep.output import progress_on_stderr
from tritonsmith.perf.sweep.run import SweepProgress
recorded, directory, pause_s, then = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
with progress_on_stderr(directory) as tell:
    tell(SweepProgress("loading the model as it is", 0, 0))
    done = 0
    with (directory / "run.jsonl").open("w") as file:
        for line in recorded.read_text().splitlines(True):
            file.write(line)
            file.flush()
            if '"event": "step"' in line:
                tell(SweepProgress(f"round {1 + done // 9}, concurrency 1: x", done, 27))
                time.sleep(pause_s)
                done += 1
    note("said meanwhile")
    if then == "fail":
        raise RuntimeError("as nobody expected")
    if then == "wait":
        time.sleep(60)
print("the result")
"""


def replayed(
    tmp_path: Path,
    then: str = "",
    columns: int = 80,
    more: Mapping[str, str] | None = None,
    pause_s: float = 0.0,
) -> Terminal:
    recorded = write(tmp_path / "recorded", journal(arms_of(1), GAINS)) / "run.jsonl"
    directory = tmp_path / "run"
    directory.mkdir()
    kept = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR")}
    env = {**kept, "TERM": "xterm-256color", "PYTHONPATH": str(ROOT), **(more or {})}
    command = [sys.executable, "-c", REPLAY, str(recorded), str(directory), str(pause_s), then]
    return Terminal(command, cwd=tmp_path, env=env, columns=columns)


def finished(terminal: Terminal) -> Shown:
    with terminal:
        return terminal.finish()


class TestTerminal:
    def test_it_is_drawn_over_and_gone_at_the_end(self, tmp_path: Path) -> None:
        shown = finished(replayed(tmp_path))
        assert shown.code == 0 and shown.is_cursor_visible and not shown.too_wide
        assert shown.screen == ["said meanwhile", "the result"]
        frames = shown.plain.count("× the current config's throughput")
        assert 27 <= frames <= 30, "once a trial, and at the end: not while one is measured"
        assert "\x1b[32m▲" in shown.raw

    @pytest.mark.parametrize("columns", [20])
    def test_it_fits_a_narrow_one(self, columns: int, tmp_path: Path) -> None:
        shown = finished(replayed(tmp_path, columns=columns))
        assert not shown.too_wide and shown.screen == ["said meanwhile", "the result"]

    def test_colours_may_be_declined(self, tmp_path: Path) -> None:
        shown = finished(replayed(tmp_path, more={"NO_COLOR": "1"}))
        assert "▲" in shown.raw and not re.search(r"\x1b\[[0-9;]*3[0-7]m", shown.raw)

    def test_a_dumb_one_gets_lines(self, tmp_path: Path) -> None:
        shown = finished(replayed(tmp_path, more={"TERM": "dumb"}))
        assert "\x1b" not in shown.raw
        assert shown.screen[:3] == [
            "loading the model as it is",
            "round 1: 0 of 27 trials",
            "round 2: 9 of 27 trials",
        ]

    def test_a_ctrl_c_takes_it_away(self, tmp_path: Path) -> None:
        with replayed(tmp_path, "wait") as terminal:
            terminal.wait_for("said meanwhile")
            terminal.press(CTRL_C)
            shown = terminal.finish()
        assert shown.is_cursor_visible and "KeyboardInterrupt" in shown.screen[-1]
        assert not any("× the current" in line for line in shown.screen)

    def test_so_does_an_error(self, tmp_path: Path) -> None:
        shown = finished(replayed(tmp_path, "fail"))
        assert shown.is_cursor_visible and shown.screen[-1] == "RuntimeError: as nobody expected"
        assert not any("× the current" in line for line in shown.screen)

    def test_it_follows_the_size_of_the_window(self, tmp_path: Path) -> None:
        with replayed(tmp_path, pause_s=0.02) as terminal:
            terminal.wait_for("round 2, ")
            before = len(terminal.raw)
            size = struct.pack("HHHH", 24, 40, 0, 0)
            fcntl.ioctl(terminal._master, termios.TIOCSWINSZ, size)
            terminal.wait_for("said meanwhile")
            shown = terminal.finish()
        after = shown.raw[before:]
        assert shown.code == 0 and "▲ 1." in plain(after)
        narrow = Shown(0, after[after.rindex("round 3, ") :], 40)
        assert not narrow.too_wide, narrow.too_wide
