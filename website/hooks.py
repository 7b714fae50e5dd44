"""For the site: the pages that are not in docs/.

The project's own files (CONTRIBUTING, SECURITY, CHANGELOG) and the examples become pages of the site. The links to them
in the documents lead to those files in the repository, and to those pages here. The README's part is taken by the
site's first page.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")

_LINK = re.compile(r"\[(?P<label>[^\[\]]+)\]\((?P<target>[^)#\s]+)(?P<anchor>#[^)]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages."""
    for name in DOCUMENTS:
        text = (ROOT / name).read_text()
        files.append(File.generated(config, name, content=text.replace("](docs/", "](")))
    for path in sorted((ROOT / "examples").glob("*.py")):
        files.append(File.generated(config, f"examples/{path.stem}.md", content=example_page(path)))
    return files


def example_page(path: Path) -> str:
    """Return the page of one example: what it says of itself, and the program behind that."""
    text = path.read_text()
    said = ast.parse(text).body[0]
    about = ast.get_docstring(ast.parse(text)) or ""
    code = "\n".join(text.splitlines()[said.end_lineno :]).strip()
    return f"# {path.name}\n\n{about}\n\n```python\n{code}\n```\n"


def on_page_markdown(markdown: str, page: Any, **_kwargs: Any) -> str:
    """Turn links that leave docs/ into links to the site's own pages; a search finds the guides first."""
    if page.file.src_uri.startswith("api/"):
        page.meta["search"] = {"boost": 0.5}
    return markdown if "/" in page.file.src_uri else _LINK.sub(_on_the_site, markdown)


def _on_the_site(link: re.Match[str]) -> str:
    label, target, anchor = link["label"], link["target"], link["anchor"] or ""
    outside = target.removeprefix("../")
    if outside == target:
        return link[0]
    if outside == "README.md":
        target = "index.md"
    elif outside in DOCUMENTS:
        target = outside
    elif outside.startswith("examples/"):
        target = outside.removesuffix(".py") + ".md"
    else:
        return label  # a test, which is no page
    return f"[{label}]({target}{anchor})"
