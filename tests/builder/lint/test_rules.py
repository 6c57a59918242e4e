"""Each rule speaks on its bad tree and is silent on its good one; no good tree has an error of any rule."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builder.lint.fixtures import Tree, fixtures
from tritonsmith.builder.lint.check import Finding, check
from tritonsmith.builder.lint.rule import Rule
from tritonsmith.builder.lint.table import RULES


def findings(tree: Tree, root: Path) -> list[Finding]:
    return check(tree.write(root), tree.options)


@pytest.mark.parametrize("rule_id", list(RULES))
def test_bad_tree_is_found_by_its_own_rule(rule_id: str, tmp_path: Path) -> None:
    found = [f for f in findings(fixtures()[rule_id].bad, tmp_path) if f.rule == rule_id]
    assert found, f"{rule_id} says nothing about its own bad example"
    assert found[0].severity == RULES[rule_id].severity
    for finding in found:
        assert finding.message and finding.fix and finding.consequence
        assert finding.path.exists()
        if finding.line is not None:
            assert 1 <= finding.line <= len(finding.path.read_text().splitlines())


@pytest.mark.parametrize("rule_id", list(RULES))
def test_good_tree_has_no_error_and_not_this_rule(rule_id: str, tmp_path: Path) -> None:
    found = findings(fixtures()[rule_id].good, tmp_path)
    assert [f for f in found if f.severity == "error"] == []
    assert [f for f in found if f.rule == rule_id] == []


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_rule_says_what_when_why_and_how(rule: Rule) -> None:
    assert rule.title and rule.then and rule.fix and rule.source and rule.bad and rule.good
    assert rule.bad != rule.good
    assert rule.stage in ("poll", "load", "silent")
    assert not rule.title.endswith(".")
