"""The built site stands alone: it fetches nothing from elsewhere, and shows nothing of the machine that built it.

`make docs` builds the site and runs these.
"""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytestmark = pytest.mark.site

ROOT = Path(__file__).parents[2]
SITE = ROOT / "build" / "site"
PAGES = sorted(SITE.rglob("*.html"))


class Page(HTMLParser):
    """What a page loads, and the ids of its headings."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.headings: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "link" and given.get("rel") != "canonical":
            self.loads.append(given.get("href", ""))
        elif tag not in ("a", "link"):
            self.loads += [
                given[name] for name in ("src", "srcset", "data", "poster", "action") if name in given
            ]
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(given.get("id", ""))


def test_the_site_is_built() -> None:
    names = {str(page.relative_to(SITE)) for page in PAGES}
    assert names >= {
        "index.html",
        "tutorial.html",
        "api/managers.html",
        "examples/one_stream.html",
        "SECURITY.html",
    }
    index = json.loads((SITE / "search" / "search_index.json").read_text())
    assert any("ManagerActor" in entry["title"] for entry in index["docs"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(SITE)))
def test_a_page_loads_its_own_site_alone(page: Path) -> None:
    loads = Page(page.read_text()).loads
    assert len(loads) > 3
    for target in loads:
        assert not re.match(r"(\w+:)?//", target), target
        path = target.split("#")[0].split("?")[0]
        if path and not path.startswith(("data:", "/")):
            assert (page.parent / path).exists(), target
    assert "Content-Security-Policy" in page.read_text()


def test_no_stylesheet_loads_from_elsewhere() -> None:
    sheets = list(SITE.rglob("*.css"))
    assert sheets
    for sheet in sheets:
        text = sheet.read_text()
        assert "@import" not in text
        foreign = [url for url in re.findall(r"url\(([^)]*)\)", text) if re.match(r"[\"']?(\w+:)?//", url)]
        assert foreign == []


def test_the_reference_has_no_dunder_names() -> None:
    found = [heading for page in PAGES for heading in Page(page.read_text()).headings if "__" in heading]
    assert found == []


def test_no_page_shows_where_it_was_built() -> None:
    marks = (str(ROOT), str(Path.home() / ""), "/site-packages/")
    found = [
        str(page)
        for page in [*PAGES, SITE / "search" / "search_index.json"]
        if any(mark in page.read_text() for mark in marks if len(mark) > 1)
    ]
    assert found == []
