"""The map of every config at every load, the grid of two settings, what to do next, and what the trials mean."""

from __future__ import annotations

import csv
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.main
from markupsafe import escape

from tests.conftest import Run
from tests.perf.report.test_compare import records
from tests.perf.report.test_report import ENVIRONMENT, SPEC, Page, counters, run_result, summary
from tritonsmith.perf.load.slo import SloResult
from tritonsmith.perf.records.record import save_records
from tritonsmith.perf.report import csv_of, html_of, markdown_of, report_json
from tritonsmith.perf.report.columns import cells_of
from tritonsmith.perf.report.page.configs import details_of
from tritonsmith.perf.report.page.grid import grid_of
from tritonsmith.perf.report.page.next_step import next_steps
from tritonsmith.perf.report.page.standing import Standing, standing_of
from tritonsmith.perf.report.page.trust import trust_of
from tritonsmith.perf.stats import ValidityLevel
from tritonsmith.perf.stats.validity import Validity
from tritonsmith.perf.sweep.plan import Arm, Trial
from tritonsmith.perf.sweep.run_record import RunResult, verdict_of, write_run
from tritonsmith.perf.sweep.trial import TrialResult

COUNT, DELAY = "instance_group.count", "dynamic_batching.max_queue_delay_microseconds"
REFUSED = "failed to load 'minilm', <b>no GPU</b>"
ONE = summary(400, 1)
Gain = Callable[[int, int, int], float]
"""(count, delay in µs, concurrency) → times the current config."""


def swept(
    gain: Gain,
    *,
    points: Sequence[int] = (1, 8),
    counts: Sequence[int] = (1, 2),
    delays: Sequence[int] = (0, 500),
    rounds: int = 3,
    noise: float = 0.01,
    refused: Sequence[str] = (),
) -> RunResult:
    """A sweep of counts and queue delays, whose first of each are the current config's."""
    base: dict[str, Any] = {
        "max_batch_size": 8,
        "instance_group": [{"count": counts[0]}],
        "dynamic_batching": {"max_queue_delay_microseconds": str(delays[0])},  # as Triton's JSON has it
    }
    arms = [
        Arm("arm00", "current config", {}, base, True),
        Arm("arm01", "current config, again", {}, base, True),
    ]
    for count in counts:
        for delay in delays:
            if (count, delay) != (counts[0], delays[0]):
                label = f"count {count}, max_queue_delay {delay} µs"
                arms.append(Arm(f"arm{len(arms):02d}", label, {COUNT: count, DELAY: delay}, base))
    rng = np.random.default_rng(3)
    trials: list[TrialResult] = []
    for round_ in range(rounds):
        for point in points:
            for arm in arms:
                if arm.id in refused:
                    continue
                times = 1.0 if arm.baseline else gain(arm.settings[COUNT], arm.settings[DELAY], point)
                rate = replace(ONE.throughput_per_s, value=900 * times * np.exp(rng.normal(0, noise)))
                trial = Trial(len(trials), round_, arm.id, point)
                result = replace(ONE, throughput_per_s=rate)
                trials.append(TrialResult(trial, result, counters(4), None, 1.2))
    spec = SPEC.model_copy(
        update={"concurrency": tuple(points), "space": {COUNT: list(counts), DELAY: list(delays)}}
    )
    errors = dict.fromkeys(refused, REFUSED)
    return RunResult(
        spec=spec,
        arms=tuple(arms),
        environment=ENVIRONMENT,
        trials=tuple(trials),
        verdict=verdict_of(spec, arms, trials, errors),
        stop_reason="all rounds were measured",
        complete=True,
        arm_errors=errors,
        wall_s=20.0,
        directory=Path("runs/a sweep"),
    )


def winner() -> RunResult:
    return swept(lambda count, delay, at: 1 + 0.4 * (count - 1) - delay / 2000, refused=("arm04",))


def depends() -> RunResult:
    return swept(lambda count, delay, at: 1 + (count - 1) * (0.3 if at == 8 else -0.3))


def undecided() -> RunResult:
    return swept(lambda count, delay, at: 1 + 0.05 * (count - 1), noise=0.06)


def equivalent() -> RunResult:
    return swept(lambda count, delay, at: 1.0, noise=0.001)


def the_map(run: RunResult) -> Standing:
    found = standing_of(run, cells_of(run))
    assert found is not None
    return found


class TestMap:
    def test_it_stands_first_below_the_verdict_on_the_page_and_in_markdown(self) -> None:
        page, text = Page(html_of(winner())).text, markdown_of(winner())
        order = [
            "Count 2, max_queue_delay 0 µs gives",
            "Every config at every load",
            "together",
            "Compared with",
        ]
        places = [page.index(words) for words in order]
        assert places == sorted(places)
        assert text.index("gives 1.") < text.index("| × current config |") < text.index("| at concurrency")

    def test_each_cell_has_ratio_interval_symbol_and_word(self) -> None:
        run = winner()
        rows = {row.arm.id: row for row in the_map(run).rows}
        for arm_id, row in rows.items():
            for point, cell in zip(run.verdict.points, row.cells, strict=True):
                found = point.arms[arm_id]
                assert cell is not None and cell.word == found.outcome
                if found.ratio is not None and found.ratio.value is not None:
                    assert cell.ratio == f"{found.ratio.value:.2f}×" and "–" in cell.span
        marks = {cell.word: cell.mark for row in rows.values() for cell in row.cells if cell}
        assert marks == {"better": "▲", "worse": "▼", "broken": "✕"}
        page = html_of(run)
        assert re.search(r"<b>▲ 1\.[34]\d×</b><small><span>better</span> <span>1\.\d\d–1\.\d\d</span>", page)

    def test_the_best_config_is_the_first_row_and_a_broken_one_the_last(self) -> None:
        rows = the_map(winner()).rows
        assert [row.arm.id for row in rows] == ["arm03", "arm02", "arm04"]
        assert [row.tag for row in rows] == ["winner", "", ""]

    def test_why_a_config_is_broken_stands_below_and_in_its_cell_as_text(self) -> None:
        run = winner()
        (reason,) = the_map(run).reasons
        assert (reason.outcome, reason.text, reason.who) == ("broken", REFUSED, run.arms[4].label)
        page = html_of(run)
        assert "<b>no GPU" not in page and page.count(escape(REFUSED)) >= 3  # two cells and the text below
        assert "does not count" not in Page(page).text  # it is told once, not three times

    def test_what_is_undecided_says_how_many_rounds_more(self) -> None:
        run = undecided()
        found = [(p.arms[a].more_rounds, a, i) for i, p in enumerate(run.verdict.points) for a in p.arms]
        more, arm_id, place = next(entry for entry in found if entry[0] is not None)
        row = next(row for row in the_map(run).rows if row.arm.id == arm_id)
        cell = row.cells[place]
        assert cell is not None and cell.note.startswith(f"about {more} more round")
        assert cell.note in html_of(run) and cell.note in markdown_of(run)

    def test_a_colour_is_of_what_is_decided_and_deeper_the_further_from_one(self) -> None:
        tones = [cell.tone for row in the_map(depends()).rows for cell in row.cells if cell]
        assert {"up2", "down3"} <= set(tones) or {"up2", "down2"} <= set(tones)
        assert {
            c.tone for row in the_map(undecided()).rows for c in row.cells if c and c.word == "undecided"
        } == {"open"}

    def test_the_current_config_has_a_row_of_what_it_gave(self) -> None:
        given = the_map(winner()).current
        assert len(given) == 2 and all(
            value.endswith("/s") and again.endswith("apart") for value, again in given
        )

    def test_many_configs_are_folded_and_the_page_stays_small(self) -> None:
        run = swept(lambda count, delay, at: 1.0, counts=range(1, 6), delays=range(0, 600, 100), rounds=2)
        found = the_map(run)
        page = html_of(run)
        assert (len(found.rows), len(found.folded)) == (12, 17)
        assert "17 more configs</summary>" in page and Page(page).stack == []
        assert len(page) < 600_000 and len(markdown_of(run)) < 65_536

    def test_a_search_for_the_highest_rate_has_one_column_its_limit(self) -> None:
        run = run_result()
        spec = run.spec.model_copy(update={"objective": "rate", "slo_p99_ms": 20.0, "concurrency": (1,)})
        slo = SloResult(20.0, 100.0, 200.0, "server", ())
        trials = tuple(replace(t, slo=slo) for t in run.trials if t.trial.concurrency == 1)
        run = replace(run, spec=spec, trials=trials, verdict=verdict_of(spec, run.arms, trials))
        (only,) = the_map(run).columns
        assert only == "p99 ≤ 20 ms"
        assert "concurrency" not in html_of(run).partition('<table class="map">')[2].partition("</table>")[0]


class TestRows:
    def test_a_config_that_was_refused_has_its_rows_in_the_csv_and_json(self) -> None:
        rows = list(csv.DictReader(csv_of(winner()).splitlines()))
        refused = [row for row in rows if row["arm"] == "arm04"]
        assert [row["concurrency"] for row in refused] == ["1", "8"]
        assert {(row["outcome"], row["why"], row["throughput_per_s"]) for row in refused} == {
            ("broken", REFUSED, "")
        }
        assert {row["outcome"] for row in rows} == {"baseline", "winner", "worse", "broken"}
        points = report_json(winner())["points"]
        assert [row["outcome"] for row in points] == [row["outcome"] for row in rows]

    def test_the_ratio_is_there_at_every_load_point(self) -> None:
        run = winner()
        rows = [r for r in csv.DictReader(csv_of(run).splitlines()) if r["arm"] in ("arm02", "arm03")]
        assert len(rows) == 4
        for row in rows:
            ratio = run.verdict.ratio_of(row["arm"], int(row["concurrency"]))
            assert ratio is not None and ratio.interval is not None
            told = [float(row[f"vs_current{end}"]) for end in ("_low", "", "_high")]
            assert told == [ratio.interval.low, ratio.value, ratio.interval.high]
            assert f"<td>{ratio.value:.2f}×<small>" in html_of(run)

    @pytest.mark.parametrize(
        ("run", "tags"),
        [
            (winner, {"current", "winner", "worse", "broken"}),
            (undecided, {"current", "undecided"}),
            (equivalent, {"current", "equivalent"}),
        ],
    )
    def test_each_row_has_its_outcome_as_a_tag(self, run: Callable[[], RunResult], tags: set[str]) -> None:
        table = html_of(run()).partition("<h2>All points</h2>")[2].partition("</section>")[0]
        assert set(re.findall(r'<span class="tag \w*">([^<]*)</span>', table)) == tags
        text = markdown_of(run()).partition("All load points")[2].partition("</details>")[0]
        assert set(re.findall(r"^\| [^|]+ \| (\w+) \| concurrency", text, re.MULTILINE)) == tags


def test_the_current_config_and_the_verdicts_one_stand_out_in_the_charts() -> None:
    page = html_of(winner())
    legend = page.partition('legend">')[2].partition("</section>")[0]
    assert re.findall(r'<g class="series s(\d)( faded)?">', legend) == [
        ("0", ""),
        ("0", ""),
        ("1", " faded"),
        ("2", ""),
    ]
    chart = page.partition("<h2>Throughput</h2>")[2].partition("</svg>")[0]
    drawn = re.findall(r'<g class="series s(\d)( faded)?">', chart)
    assert drawn[0] == ("1", " faded") and sorted(drawn[1:]) == [("0", ""), ("0", ""), ("2", "")]
    assert "faded" not in html_of(swept(lambda c, d, at: 1.2, delays=(0,))).partition("<body>")[2]


class TestGrid:
    def test_two_settings_are_rows_and_columns_with_the_current_config_at_its_place(self) -> None:
        run = winner()
        grid = grid_of(run)
        assert grid is not None
        assert (grid.rows, grid.columns) == (("count", ("1", "2")), ("max_queue_delay", ("0 µs", "500 µs")))
        where, ((current, delayed), (best, broken)) = grid.tables[1]
        assert where == "at concurrency 8" and len(grid.tables) == 2
        assert [cell and cell.word for cell in (current, delayed, best, broken)] == [
            "current", "worse", "better", "broken",
        ]  # fmt: skip
        assert best is not None and best.ratio == f"{run.verdict.points[1].arms['arm03'].ratio.value:.2f}×"  # type: ignore[union-attr]

    def test_one_setting_has_none(self) -> None:
        assert grid_of(swept(lambda count, delay, at: 1.0, delays=(0,))) is None

    def test_other_settings_are_as_in_the_verdicts_config(self) -> None:
        run = winner()
        sizes = (4, 8)
        arms = tuple(
            replace(arm, id=f"{arm.id}x{size}", settings={**arm.settings, "max_batch_size": size})
            for arm in run.arms[2:]
            for size in sizes
        )
        space = {**run.spec.space, "max_batch_size": list(sizes), DELAY: [0, 500, 1000]}
        found = {p.concurrency: p for p in run.verdict.points}
        points = tuple(
            replace(p, arms={f"{a}x{size}": one for a, one in p.arms.items() for size in sizes})
            for p in found.values()
        )
        run = replace(
            run,
            spec=run.spec.model_copy(update={"space": space}),
            arms=(*run.arms[:2], *arms),
            verdict=replace(run.verdict, arm_id="arm03x4", points=points),
        )
        grid = grid_of(run)
        assert grid is not None and grid.fixed == "max_batch_size 4" and grid.has_gaps
        assert (grid.rows[0], grid.columns[0]) == ("max_queue_delay", "count")


class TestNextStep:
    @pytest.mark.parametrize(
        ("run", "commands"),
        [
            (winner, ["tritonsmith apply 'runs/a sweep'"]),
            (
                depends,
                [
                    "tritonsmith apply 'runs/a sweep' --load 8",
                    "tritonsmith apply 'runs/a sweep' --weights 1:1,8:1",
                ],
            ),
            (equivalent, [""]),
            (lambda: replace(winner(), complete=False), [
                "tritonsmith sweep --resume --output 'runs/a sweep'", "tritonsmith apply 'runs/a sweep'",
            ]),
            (lambda: replace(winner(), directory=None), [""]),
            (lambda: replace(winner(), directory=Path("-x")), ["tritonsmith apply ./-x"]),
        ],
        ids=["winner", "depends", "equivalent", "interrupted", "not kept", "a directory like a flag"],
    )  # fmt: skip
    def test_the_command_fits_the_outcome(self, run: Callable[[], RunResult], commands: list[str]) -> None:
        assert [step.command for step in next_steps(run())] == commands

    def test_more_rounds_are_asked_for_with_the_runs_own_command(self) -> None:
        run = undecided()
        verdict = run.verdict
        (at,) = [p for p in verdict.points if p.concurrency == verdict.concurrency]
        arm_id = verdict.arm_id or ""
        assert verdict.outcome == "undecided" and arm_id in at.arms

        def step_of(more: int | None) -> str:
            arms = {**at.arms, arm_id: replace(at.arms[arm_id], more_rounds=more)}
            points = tuple(replace(p, arms=arms) if p is at else p for p in verdict.points)
            command = "tritonsmith sweep 'my models' -m m --rounds 3 --budget=60s --shape x:3 -o old --resume"
            changed = replace(
                run,
                verdict=replace(verdict, points=points),
                environment={**ENVIRONMENT, "command": command},
            )
            (step,) = next_steps(changed)
            return step.command

        head = "tritonsmith sweep 'my models' -m m --shape x:3 --resume --output 'runs/a sweep'"
        assert step_of(4) == f"{head} --rounds 7"
        assert step_of(60) == f"{head} --rounds 30 --duration 3s"
        assert step_of(None) == f"{head} --duration 5s"

    def test_every_flag_is_one_that_the_command_line_has(self) -> None:
        from tritonsmith import command_line

        group = typer.main.get_command(command_line.app)
        for run in (winner(), depends(), undecided(), replace(undecided(), complete=False)):
            for step in next_steps(run):
                if step.command:
                    _, name, *words = shlex.split(step.command)
                    group.commands[name].make_context(name, words)  # type: ignore[attr-defined]

    def test_apply_does_what_the_report_says(self, tmp_path: Path, tritonsmith: Run) -> None:
        (tmp_path / "a sweep").mkdir()
        run = replace(depends(), directory=Path("a sweep"))
        write_run(run, tmp_path / "a sweep")
        (tmp_path / "models.yaml").write_text(
            "models:\n  minilm:\n    source: {onnx: m.onnx}\n    max_batch_size: 8\n"
        )
        for step in next_steps(run)[:1]:
            done = tritonsmith(*shlex.split(step.command)[1:], "--dry-run")
            assert done.returncode == 0 and "+" in done.stdout, done.stderr

    def test_it_stands_under_the_verdict_with_a_button_and_is_quoted_and_escaped(self) -> None:
        run = replace(winner(), directory=Path("it's <b>"))
        (step,) = next_steps(run)
        assert shlex.split(step.command)[2] == "it's <b>"
        page = html_of(run)
        verdict = page.partition('class="card verdict')[2].partition("<section")[0]
        assert step.command in Page(page).text and "<b>" not in verdict
        assert '<button type="button" class="copy" hidden>' in verdict
        assert step.command in markdown_of(run) and report_json(run)["steps"][0]["command"] == step.command


class TestEachConfig:
    def write_records(self, run: RunResult, directory: Path) -> RunResult:
        (directory / "records").mkdir()
        for trial in run.trials:
            of = records(300, 0.5, trial.trial.number)
            save_records(of, directory / "records" / f"{trial.trial.number:04d}.npz")
        return replace(run, directory=directory)

    def test_trials_over_time_and_the_distribution_of_single_requests(self, tmp_path: Path) -> None:
        run = self.write_records(winner(), tmp_path)
        details = details_of(run)
        assert [d.label for d in details] == [
            arm.label for arm in run.arms[:4]
        ]  # the refused one has no trial
        for config in details:
            assert len(config.charts) == 4
            assert (
                config.charts[0][1].count('class="mark') == 2 * 2 * 3
            )  # two drawings, two loads, three rounds
        assert "current config at concurrency" in details[-1].legend[-1][1]
        page = html_of(run)
        assert "<details><summary>count 2, max_queue_delay 0 µs</summary>" in page and Page(page).stack == []

    def test_without_records_or_with_a_damaged_one_the_page_has_what_there_is(self, tmp_path: Path) -> None:
        assert {len(config.charts) for config in details_of(winner())} == {3}
        run = self.write_records(winner(), tmp_path)
        for file in (tmp_path / "records").iterdir():
            if int(file.stem) % 2:
                file.write_bytes(b"no archive")
        assert 4 in {len(config.charts) for config in details_of(run)}
        for file in (tmp_path / "records").iterdir():
            file.write_bytes(b"")
        assert {len(config.charts) for config in details_of(run)} == {3}


@pytest.mark.parametrize(
    ("verdict", "every", "said"),
    [
        (ValidityLevel.VALID, 1, "steady enough"),
        (ValidityLevel.UNSETTLED, 2, "50 % of trials (concurrency 1, 8) rate or latency still moved"),
        (
            ValidityLevel.CLIENT_BOUND,
            1,
            "In all trials (concurrency 1, 8) the client was at its limit, not the server",
        ),
        (ValidityLevel.TOO_SHORT, 1, "p99 rests on a handful"),
    ],
)
def test_weak_trials_are_told_by_what_they_mean_for_the_verdict(
    verdict: ValidityLevel, every: int, said: str
) -> None:
    run = winner()
    trials = [
        replace(
            t,
            summary=replace(t.summary, validity=Validity(verdict if i % every == 0 else ValidityLevel.VALID)),
        )
        for i, t in enumerate(run.trials)
        if t.summary
    ]
    told = trust_of(replace(run, trials=tuple(trials)))
    assert said in told[0]
    assert re.fullmatch(
        r"The smallest difference that this run could tell: about [\d.]+ % at concurrency 1, about [\d.]+ % at concurrency 8\.",
        told[-1],
    )
    assert said in Page(html_of(replace(run, trials=tuple(trials)))).text


def _rgb(text: str) -> tuple[float, float, float]:
    parts = [int(text[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return linear[0], linear[1], linear[2]


def _contrast(a: str, b: str) -> float:
    light, dark = sorted(
        (0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in (_rgb(a), _rgb(b))), reverse=True
    )
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_the_maps_texts_are_legible_on_their_colours(mode: int) -> None:
    style = html_of(winner()).partition("<style>")[2].partition("</style>")[0]
    of = dict(
        re.findall(r"--([\w-]+): (#[0-9a-f]{6})\b", re.findall(r":root \{(.*?)\}", style, re.DOTALL)[mode])
    )
    for tone in ("up1", "up2", "up3", "down1", "down2", "down3", "grid", "card"):
        assert _contrast(of["ink"], of[tone]) >= 4.5, tone
    assert _contrast(of["bad"], of["bad-soft"]) >= 4.5 and _contrast(of["soft"], of["card"]) >= 4.5


LOOK = """
<script>
onload = async () => {
  const seen = [];
  for (const frame of document.querySelectorAll("iframe")) {
    const page = frame.contentDocument, root = page.documentElement;
    const button = page.querySelector("button.copy"), shown = button && !button.hidden;
    if (shown) { button.click(); await new Promise(done => setTimeout(done, 200)); }
    const charts = [...page.querySelectorAll("svg.chart")].filter(svg => svg.getClientRects().length && svg.clientWidth);
    const sizes = charts.flatMap(svg => [...svg.querySelectorAll("text")].map(text =>
      parseFloat(getComputedStyle(text).fontSize) * svg.clientWidth / svg.viewBox.baseVal.width));
    const cell = page.querySelector(".map td.h");
    seen.push([root.scrollWidth <= root.clientWidth, charts.every(svg => svg.classList.contains(frame.name)),
      Math.min(...sizes) >= 11,
      !!shown && button.textContent !== "Copy", cell.getClientRects().length > 0].map(Number).join(""));
  }
  document.title = seen.join(" ");
};
</script>"""


def test_a_browser_shows_it_at_390_pixels_without_scrolling_sideways_and_runs_the_copy_button(
    tmp_path: Path,
) -> None:
    browser = next((b for b in ("chromium", "chromium-browser", "google-chrome") if shutil.which(b)), None)
    if browser is None:
        pytest.skip("no Chromium on this machine")
    many = swept(lambda count, delay, at: 1.1, points=range(1, 21), rounds=2)
    frames = [
        f'<iframe name="{kind}" style="border:0;width:{width}px;height:900px" srcdoc="{escape(html_of(run))}"></iframe>'
        for run in (winner(), many)
        for kind, width in (("narrow", 390), ("narrow", 800), ("wide", 1280))
    ]
    file = tmp_path / "look.html"
    file.write_text(f"<!doctype html><title></title>{LOOK}<body>{''.join(frames)}")
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/p",
         "--virtual-time-budget=5000", "--dump-dom", str(file)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title is not None, done.stderr
    assert title[1] == " ".join(["11111"] * 6)
