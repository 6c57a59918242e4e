"""Findings in each format: well-formed, complete, safe against what configs may hold."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest

from tests.builder.lint.fixtures import tree
from tests.conftest import ROOT
from tritonsmith.builder.lint.check import Finding, check, report
from tritonsmith.builder.lint.render import FORMATS, explanation, text
from tritonsmith.builder.lint.table import RULES

ODD = 'name: "a\\nb<&>\\"%,:\\001\\033"\nmax_batch_size: -1\ninstance_group { count: 0 }'


@pytest.fixture
def findings(tmp_path: Path) -> list[Finding]:
    return check(tree(ODD).write(tmp_path))


def test_text_begins_with_the_place_and_sums_up(findings: list[Finding]) -> None:
    lines = text(findings, 1).splitlines()
    named = f"{findings[0].path}:4:1: REPO002 [*] error: the config is named 'a\\nb<&>"
    assert any(line.startswith(named) for line in lines)
    assert lines[-2:] == ["1 model: 2 errors, 1 warning", "[*] 1 fixable with --fix"]
    assert "\033" not in text(findings, 1)
    assert "\033[31m" in text(findings, 1, colour=True)
    assert text([], 3) == "3 models: 0 errors, 0 warnings"


def test_json_has_every_field(findings: list[Finding]) -> None:
    data = json.loads(FORMATS["json"](findings, 1))
    assert (data["models"], data["errors"], data["warnings"]) == (1, 2, 1)
    assert set(data["findings"][0]) == {
        *(
            "rule",
            "severity",
            "model",
            "path",
            "line",
            "message",
            "seen",
            "stage",
            "consequence",
            "fix",
            "field",
            "column",
            "end_column",
            "edits",
            "fixable",
        )
    }


def test_sarif_names_rules_places_and_levels(findings: list[Finding]) -> None:
    run = json.loads(FORMATS["sarif"](findings, 1))["runs"][0]
    rules = run["tool"]["driver"]["rules"]
    for result, finding in zip(run["results"], findings, strict=True):
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"] == finding.rule
        assert result["level"] in ("error", "warning")
        region = result["locations"][0]["physicalLocation"]["region"]
        assert region["startLine"] == finding.line
        assert (region["startColumn"], region["endColumn"]) == (finding.column, finding.end_column)
    assert run["columnKind"] == "unicodeCodePoints"


def test_junit_counts_errors_as_failures(findings: list[Finding]) -> None:
    suite = ElementTree.fromstring(FORMATS["junit"](findings, 1))[0]
    assert (suite.get("tests"), suite.get("failures")) == ("3", "2")
    assert len(suite.findall("testcase/failure")) == 2
    assert ElementTree.fromstring(FORMATS["junit"]([], 2))[0].get("failures") == "0"


def test_github_keeps_each_annotation_on_one_line(findings: list[Finding]) -> None:
    lines = FORMATS["github"](findings, 1).splitlines()
    assert len(lines) == len(findings) + 1
    for line, finding in zip(lines, findings, strict=False):
        assert line.startswith(f"::{finding.severity} file=") and f",col={finding.column}," in line
        assert f"line={finding.line},title={finding.rule}::" in line


@pytest.mark.parametrize("rule_id", ["BATCH004", "ENS013"])
def test_explanation_shows_both_examples(rule_id: str) -> None:
    words = explanation(RULES[rule_id])
    assert words.startswith(rule_id)
    for example in (RULES[rule_id].bad, RULES[rule_id].good):
        assert all(f"    {line}" in words for line in example.splitlines())


def test_the_page_about_ci_shows_what_people_get(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = Path("models") / "detector" / "config.pbtxt"
    config.parent.mkdir(parents=True)
    tensors = 'put { name: "x" data_type: TYPE_FP32 dims: [ 4 ] }\n'
    config.write_text(f'backend: "python"\nmax_batch_sze: 4\nin{tensors}out{tensors}')
    found = report([config])
    shown = text(found.findings, found.models, texts=found.texts)
    assert f"```text\n{shown}\n```" in (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")


def test_lines_are_cut_at_the_width_and_underlined_below_their_place(tmp_path: Path) -> None:
    filler = " ".join(f'parameters {{ key: "k{n}" value {{ string_value: "é" }} }}' for n in range(300))
    config = tmp_path / "config.pbtxt"
    config.write_text(f'{filler} max_batch_size: -1 {filler} backend: "python"', encoding="utf-8")
    found = report([config])
    lines = text(found.findings, 1, texts=found.texts, width=60).splitlines()
    at = next(n for n, line in enumerate(lines) if "BATCH001" in line)
    line, carets = lines[at + 1 : at + 3]
    assert len(line) <= 60 and len(carets) <= 60
    assert line[carets.index("^") : carets.rindex("^") + 1] == "max_batch_size: -1"
    assert f":1:{len(filler) + 2}: BATCH001" in lines[at]
    no_terminal = text(found.findings, 1, texts=found.texts).splitlines()
    assert max(len(line) for line in no_terminal if " | " in line) <= 160


def test_a_path_is_no_order_to_a_runner(findings: list[Finding]) -> None:
    odd = replace(findings[0], path=Path("::error::x"))
    assert text([odd], 1).startswith("./::error::x:")
