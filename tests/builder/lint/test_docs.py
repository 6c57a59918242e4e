"""docs/rules.md is what the table says."""

from __future__ import annotations

from pathlib import Path

from tritonsmith.builder.lint.docs import FAMILIES, PAGE, rules_md
from tritonsmith.builder.lint.table import RULES


def test_page_is_current() -> None:
    assert Path(__file__).parents[3] / "docs" / "rules.md" == PAGE
    assert PAGE.read_text(encoding="utf-8") == rules_md(), "run `python -m tritonsmith.builder.lint.docs`"


def test_every_rule_has_a_section_and_a_family() -> None:
    page = rules_md()
    assert {rule.family for rule in RULES.values()} == set(FAMILIES)
    for rule in RULES.values():
        assert page.count(f"\n### {rule.id}\n") == 1
