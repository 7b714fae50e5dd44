"""What the README lists is what there is."""

from __future__ import annotations

import re
from pathlib import Path

import gemini_streams

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_every_make_target_that_is_named_exists() -> None:
    for page in ("README.md", "CONTRIBUTING.md", "docs/performance.md"):
        named = set(re.findall(r"(?m)(?:^    |`)make ([a-z-]+)", (ROOT / page).read_text()))
        targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text()))
        assert named <= targets, page


def test_every_page_is_on_the_map() -> None:
    for page in ("README.md", "docs/index.md"):
        text = (ROOT / page).read_text()
        linked = {Path(target).name for target in re.findall(r"\]\(([^)#]+)", text)}
        pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"index.md"}
        left_out = {"fault-cases.md", "otp-rules.md"} if page == "README.md" else set()
        assert pages - linked <= left_out, page


def test_every_dependency_is_explained() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text()
    wanted = re.search(r"(?s)\ndependencies = \[(.*?)\]", pyproject)
    assert wanted is not None
    names = set(re.findall(r'"(\w+)', wanted[1]))
    section = README.split("## Why each dependency is there")[1].split("\n## ")[0]
    assert {name.lower() for name in re.findall(r"(?m)^\| \[(\w+)\]", section)} == names


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 125


def test_the_design_names_every_folder_and_only_modules_that_exist() -> None:
    package = Path(gemini_streams.__file__).parent
    folders = {path.parent.name for path in package.glob("*/__init__.py")}
    text = (ROOT / "docs" / "design.md").read_text()
    assert {name for name in folders if f"`{name}/`" not in text} == set()
    for page in ("docs/design.md", "CONTRIBUTING.md"):
        text = (ROOT / page).read_text()
        for folder, module in re.findall(rf"(?<![/\w])({'|'.join(folders)})/(\w+)", text):
            place = package / folder / module
            assert place.with_suffix(".py").exists() or place.is_dir(), f"{page}: {folder}/{module}"
