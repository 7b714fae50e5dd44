"""Run Pykka's own tests twice: with `SupervisedActor` as their runtime, and with Pykka's own actors beside ours.

`make pykka-suite` takes the source distribution of the locked Pykka from the package index, once, and unpacks it
under build/. In the copy, `ThreadingActor` is replaced by `SupervisedActor` wherever a test imports it. Each test must
end as differences.toml says; one failure more or one less is a failure of the run.

With Pykka's own actors all must pass: that Pykka's registry is indexed is noticed by nobody.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PROJECT = HERE.parents[2]
BUILD = PROJECT / "build" / "pykka-suite"
LEAST_TESTS = 100
"""Fewer mean that the suite was not found where it was looked for."""

IMPORT = re.compile(r"^from pykka import (?P<names>[^(\n]*\bThreadingActor\b[^(\n]*)$", re.MULTILINE)


class Outcomes:
    """Collects how each test has ended, by its id."""

    def __init__(self) -> None:
        self.failed: set[str] = set()
        self.passed: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called by pytest for the set-up, the call and the tear-down of each test."""
        if report.failed:
            self.failed.add(report.nodeid)
        elif report.when == "call" and report.passed:
            self.passed.add(report.nodeid)


def locked_version() -> str:
    """Read the locked version of Pykka."""
    lock = (PROJECT / "requirements-dev.lock").read_text(encoding="utf-8")
    found = re.search(r"^pykka==(\S+)", lock, re.MULTILINE)
    if found is None:
        raise SystemExit("requirements-dev.lock names no version of pykka")
    return found[1]


def unpack(version: str, runtime: str) -> Path:
    """Make a fresh copy of the suite; the source distribution is fetched where it is not there."""
    archive = BUILD / f"pykka-{version}.tar.gz"
    if not archive.exists():
        fetch = ["-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
        source = ["--no-binary", ":all:", "--no-build-isolation", "--dest", str(BUILD), f"pykka=={version}"]
        subprocess.run([sys.executable, *fetch, *source], check=True)
    target = BUILD / runtime
    shutil.rmtree(target, ignore_errors=True)
    with tarfile.open(archive) as source_distribution:
        source_distribution.extractall(target, filter="data")
    suite = target / f"pykka-{version}"
    if runtime == "supervised":
        replaced = sum(replace_runtime(path) for path in (suite / "tests").rglob("*.py"))
        if not replaced:
            raise SystemExit("no test imports ThreadingActor from pykka in one line any more: see IMPORT")
    return suite


def replace_runtime(path: Path) -> int:
    """Let one file of tests import `SupervisedActor` under the name of Pykka's actor class."""

    def other(found: re.Match[str]) -> str:
        names = [name.strip() for name in found["names"].split(",")]
        names.remove("ThreadingActor")
        kept = f"from pykka import {', '.join(names)}\n" if names else ""
        return f"{kept}from pykka_supervisor import SupervisedActor as ThreadingActor"

    text, count = IMPORT.subn(other, path.read_text(encoding="utf-8"))
    if count:
        path.write_text(text, encoding="utf-8")
    return count


def run_one(runtime: str) -> int:
    """Run the suite in this process and compare; returns the exit code."""
    suite = unpack(locked_version(), runtime)
    os.chdir(suite)
    importlib.import_module("pykka_supervisor")
    outcomes = Outcomes()
    quiet = ["-q", "--no-header", "--tb=no", "--show-capture=no", "-rN"]
    alone = ["-c", os.devnull, "--rootdir=.", "-p", "no:cacheprovider", "-p", "no:xdist", "--timeout=60"]
    pytest.main([*quiet, *alone, "tests"], plugins=[outcomes])
    differences = tomllib.loads((HERE / "differences.toml").read_text(encoding="utf-8"))
    expected = set(differences.get(runtime, {}))
    for test in sorted(outcomes.failed - expected):
        print(f"{runtime}: fails, and differences.toml has no reason: {test}")  # noqa: T201
    for test in sorted(expected - outcomes.failed):
        at = "passes" if test in outcomes.passed else "is not there any more"
        print(f"{runtime}: {at}, and differences.toml says that it fails: {test}")  # noqa: T201
    ran = len(outcomes.passed | outcomes.failed)
    print(f"{runtime}: {ran} tests of Pykka's own ran; {len(outcomes.failed)} of {len(expected)} differences")  # noqa: T201
    return int(outcomes.failed != expected or ran < LEAST_TESTS)


def main(runtimes: list[str]) -> int:
    """Run each runtime in a process of its own, or the one that is named in this one."""
    if runtimes:
        return run_one(runtimes[0])
    BUILD.mkdir(parents=True, exist_ok=True)
    codes = [
        subprocess.run([sys.executable, __file__, runtime], check=False).returncode
        for runtime in ("plain", "supervised")
    ]
    return max(codes)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
