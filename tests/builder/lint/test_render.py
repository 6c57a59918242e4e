"""Findings in each format: well-formed, complete, safe against what configs may hold."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tests.builder.lint.fixtures import tree
from tritonsmith.builder.lint.check import Finding, check
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
