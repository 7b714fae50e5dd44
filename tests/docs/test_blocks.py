"""The programs in the documents run as they stand, and print what the block behind them says.

A block ```python is a program, or a test: its functions `test_*` are called, or run by pytest where they ask for
fixtures. A block ```text right behind it is its output. Each runs in a process of its own with a key and a base URL in
the environment, which are the local Gemini's.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from gemini_streams.testing import LocalGemini, Reply

ROOT = Path(__file__).parents[2]
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md")),
)
FILES_OF_A_SERVER = "docs/deployment.md"  # `test_deployment` runs them, as a server does

_BLOCK = re.compile(r"(?ms)^```python\n(?P<code>.*?)^```\n(?:\s*```text\n(?P<output>.*?)^```\n)?")
_CALL_TESTS = """
for _name, _test in list(globals().items()):
    if _name.startswith("test_"):
        _test()
"""


class Block(NamedTuple):
    document: str
    line: int
    code: str
    output: str | None

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"

    @property
    def name(self) -> str:
        """What its first line calls the file, or a name made of its place."""
        named = re.match(r"# (\w+\.py)\n", self.code)
        return named[1] if named else f"{Path(self.document).stem.replace('-', '_')}_{self.line}.py"

    @property
    def asks_for_fixtures(self) -> bool:
        return re.search(r"(?m)^def test_\w+\(\s*\w", self.code) is not None


def blocks() -> list[Block]:
    found = []
    for document in DOCUMENTS:
        text = (ROOT / document).read_text()
        for match in _BLOCK.finditer(text):
            line = text.count("\n", 0, match.start()) + 2
            found.append(Block(document, line, match["code"], match["output"]))
    return found


@pytest.mark.parametrize(
    "block", [block for block in blocks() if block.document != FILES_OF_A_SERVER], ids=str
)
def test_a_program_of_the_documents(block: Block, gemini: LocalGemini, tmp_path: Path) -> None:
    gemini.on("sky", Reply("Because air scatters short waves more than long ones."))
    program = tmp_path / "program.py"
    program.write_text(block.code if block.asks_for_fixtures else block.code + _CALL_TESTS)
    by_pytest = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "--strict-markers"]
    env = os.environ | {"GEMINI_API_KEY": "local-key", "GOOGLE_GEMINI_BASE_URL": gemini.url}
    env.pop("GOOGLE_API_KEY", None)
    done = subprocess.run(
        [sys.executable, "-W", "error", *(by_pytest if block.asks_for_fixtures else ()), str(program)],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
        env=env,
    )
    assert done.returncode == 0, done.stderr + done.stdout * block.asks_for_fixtures
    if block.output is not None:
        assert done.stdout == block.output
    assert not re.search(r"(?m)^Traceback", done.stderr)  # a report of a crash may have one


def test_a_type_checker_has_no_complaint(tmp_path: Path) -> None:
    """`mypy --strict`, as a reader runs it on a program of the documents; and on what it is to know and to refuse."""
    (tmp_path / "typed.py").write_text((Path(__file__).parent / "typed.py").read_text())
    for block in blocks():
        assert not (tmp_path / block.name).exists(), block
        (tmp_path / block.name).write_text(block.code)
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--cache-dir",
        str(ROOT / ".mypy_cache" / "documents"),
    ]
    done = subprocess.run(
        [*command, "--config-file", os.devnull, *sorted(path.name for path in tmp_path.glob("*.py"))],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout


def test_every_kind_of_document_has_programs() -> None:
    documents = {block.document for block in blocks()}
    assert documents >= {"README.md", "docs/tutorial.md", "docs/guarantees.md", FILES_OF_A_SERVER}


def test_every_block_says_what_it_is() -> None:
    """So that no program stands in a document without its being run."""
    for document in DOCUMENTS:
        kinds = re.findall(r"(?m)^```(.*)$", (ROOT / document).read_text())[::2]
        assert set(kinds) <= {"python", "text", "console", "ini", "json", "html"}, document


def test_every_page_is_in_the_sites_navigation() -> None:
    named = set(re.findall(r"(?m)^ +- (?:.*: )?(\S+\.md)$", (ROOT / "website" / "mkdocs.yml").read_text()))
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    examples = {f"examples/{path.stem}.md" for path in (ROOT / "examples").glob("*.py")}
    own = {"CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"}
    assert named == pages | examples | own


@pytest.mark.parametrize("document", [*DOCUMENTS, "CHANGELOG.md"])
def test_links_lead_somewhere(document: str) -> None:
    text = (ROOT / document).read_text()
    for target in re.findall(r"\]\(([^)]+)\)", text):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        file = (ROOT / document).parent / path if path else ROOT / document
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"(?m)^#+ (.*)$", file.read_text())
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, target
