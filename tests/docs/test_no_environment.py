"""Nothing that documents the packages shows the environment of the process that made it: not help(), no signature."""

from __future__ import annotations

import os
import subprocess
import sys

PROGRAM = r"""
import importlib, inspect, pkgutil, pydoc, sys
import gemini_streams, pykka_supervisor

shown = []
for package in (gemini_streams, pykka_supervisor):
    for info in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not info.name.endswith("__main__"):
            importlib.import_module(info.name)
for name, module in sorted(sys.modules.items()):
    if name.partition(".")[0] not in ("gemini_streams", "pykka_supervisor"):
        continue
    shown.append((name, pydoc.plain(pydoc.render_doc(module))))
    for label, value in vars(module).items():
        if label.startswith("__"):
            continue
        shown.append((f"{name}.{label}", repr(value)))
        if not callable(value):
            continue
        members = [value, *(vars(value).values() if inspect.isclass(value) else ())]
        for member in members:
            try:
                shown.append((f"{name}.{label}", str(inspect.signature(member))))
            except (TypeError, ValueError):
                pass
        if (getattr(value, "__module__", None) or "").startswith(("gemini_streams", "pykka_supervisor")):
            shown.append((f"{name}.{label}", pydoc.plain(pydoc.render_doc(value))))
assert len(shown) > 1000, len(shown)
found = sorted({label for label, text in shown if "mark-of-the-environment" in text})
print("\n".join(found))
"""


def test_help_signatures_and_modules_show_no_environment() -> None:
    names = (
        "GOOGLE_API_KEY",
        "GEMINI_API_KEY",
        "HOME_OF_SOMETHING",
        "HTTPS_PROXY",
        "https_proxy",
        "REQUESTS_CA_BUNDLE",
        "GOOGLE_GEMINI_BASE_URL",
    )
    marks = {name: f"http://user:mark-of-the-environment-{name}@host.test" for name in names}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, **marks},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""
