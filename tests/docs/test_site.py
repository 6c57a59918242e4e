"""`mkdocs build --strict` makes a site of docs/ that fetches nothing from elsewhere, and no page is an orphan."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.conftest import ROOT

LOADED = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "object": "data",
    "link": "href",
}


def build(config: Path, site: Path) -> subprocess.CompletedProcess[str]:
    # Not with --quiet, which keeps warnings from --strict, too.
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", config, "--site-dir", site],
        capture_output=True,
        text=True,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "NO_COLOR": "1"},
        timeout=120,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = tmp_path_factory.mktemp("site") / "site"
    result = build(ROOT / "mkdocs.yml", built)
    assert result.returncode == 0 and "WARNING" not in result.stderr, result.stderr
    return built


class Resources(HTMLParser):
    """What a browser fetches for a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        named = given.get("rel") in {"canonical", "next", "prev"}
        if tag in LOADED and not named and given.get(LOADED[tag]):
            self.found.append(str(given[LOADED[tag]]))


def test_its_pages_fetch_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 25
    for page in pages:
        text = page.read_text(encoding="utf-8")
        resources = Resources()
        resources.feed(text)
        assert resources.found, page
        assert not [r for r in resources.found if re.match(r"(https?:)?//", r)], page
        assert 'class="mermaid"' not in text, f"{page}: the theme would fetch mermaid for it"
    for sheet in site.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        assert not re.search(r"""url\(\s*["']?(https?:)?//|@import""", text), sheet


def test_the_search_knows_the_pages(site: Path) -> None:
    index = (site / "search" / "search_index.json").read_text(encoding="utf-8")
    assert "max_queue_delay_microseconds" in index and "reference/cli/#tritonsmith-cache-gc" in index


def test_no_page_is_an_orphan() -> None:
    listed = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    there = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    assert set(listed) == there | {"reference/models-yaml.md", "reference/cli.md"}
    assert len(listed) == len(set(listed))


def test_links_that_lead_nowhere_and_orphans_end_the_build(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    links = "[a](index.md#here) [b](index.md#there) [c](nowhere.md) [d](/absolute/)"
    (tmp_path / "docs" / "index.md").write_text(f"# Page\n\n{links}\n\n## Here\n")
    (tmp_path / "docs" / "orphan.md").write_text("# Not in the navigation\n")
    config = f"INHERIT: {ROOT / 'mkdocs.yml'}\nnav: [index.md]\nhooks: []\ntheme: {{name: mkdocs}}\nextra_css: []\n"
    (tmp_path / "mkdocs.yml").write_text(config)
    result = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert result.returncode == 1 and "#here" not in result.stderr, result.stderr
    for said in ("#there", "nowhere.md", "/absolute/", "orphan.md"):
        assert said in result.stderr
