"""The benchmarks can be started: each row's programs are there, and each row is judged."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.__main__ import judgements
from benchmarks.kit import Figures, Sample
from benchmarks.page import PAGE, TABLES, Run, filled
from benchmarks.row import Judgement, Peer, Row
from benchmarks.rows import ROWS
from benchmarks.running import NEEDS, missing

ROOT = Path(__file__).parent.parent
VALUES = dict.fromkeys(
    (
        "p99_ms",
        "kib_per_stream",
        "threads",
        "descriptors",
        "new_connections",
        "loads_of_the_bundle",
        "picture: held ms",
        "event: held ms",
        "decoder alone: held ms",
        "first behind ms",
        "silent stream, TLS median",
    ),
    1.0,
)


def names(rows: tuple[Row, ...]) -> list[str]:
    return [row.name for row in rows]


@pytest.mark.parametrize("row", ROWS, ids=names(ROWS))
def test_the_programs_of_a_row_are_there(row: Row) -> None:
    for peer in row.peers:
        if missing(peer._replace(work=peer.work.with_(tls=False)), None):
            continue
        module = importlib.import_module(f"benchmarks.peers.{peer.module}")
        assert callable(getattr(module, peer.kind))


@pytest.mark.parametrize("row", ROWS, ids=names(ROWS))
def test_a_row_is_judged_by_what_was_measured(row: Row) -> None:
    figures = Figures(samples=[Sample(cpu=1.0, wall=1.0, events=10)], expected=10, values=VALUES)
    judged = row.judge({peer.label: [figures] for peer in row.peers})
    assert all("nan" not in each.measured for each in judged)
    lost = Figures(samples=[Sample(cpu=1.0, wall=1.0, events=9)], expected=10, values=VALUES)
    of_losses = [j for j in row.judge({peer.label: [lost] for peer in row.peers}) if j.table == 0]
    assert not any(each.reached for each in of_losses)


def test_a_row_without_a_peer_is_not_judged_against_it_and_the_rest_is() -> None:
    [row] = [row for row in ROWS if row.name == "shared-1000"]
    figures = Figures(samples=[Sample(cpu=1.0, wall=1.0, events=10)], expected=10, values=VALUES)
    judged = row.judge({peer.label: [figures] for peer in row.peers if peer.module != "aio"})
    unknown = [each for each in judged if "nan" in each.measured]
    assert [each.what for each in unknown] == ["1,000 streams, 10 shared actors: CPU over aiohttp"]
    assert len(judged) > 1


def test_a_program_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    peer: Peer = ROWS[0].peers[0]
    assert missing(peer, None) is None
    monkeypatch.setitem(NEEDS, peer.module, ("no_such_package.of_any_kind",))
    assert missing(peer, None) == "no_such_package.of_any_kind is not installed"
    over_tls = peer._replace(work=peer.work.with_(tls=True))
    assert missing(over_tls, None) == "trustme is not installed"


def test_a_promise_says_how_far_it_is_reached() -> None:
    lines = judgements(
        [
            Judgement("a", "1", "≤ 2", reached=True, then="≤ 1", then_reached=True, table=2),
            Judgement("b", "2", "≤ 2", reached=True, then="≤ 1", table=2),
            Judgement("c", "3", "≤ 2", reached=False, then="≤ 1", table=1),
        ]
    )
    assert [re.split("  +", line) for line in lines if line[:1] in "abc"] == [
        ["c", "3", "≤ 2", "≤ 1", "NO"],
        ["a", "1", "≤ 2", "≤ 1", "yes, and then"],
        ["b", "2", "≤ 2", "≤ 1", "yes"],
    ]


@pytest.mark.timeout(120)
def test_one_row_runs(tmp_path: Path) -> None:
    """Over TLS, from the command line to the table and the file of figures."""
    command = [
        sys.executable,
        "-m",
        "benchmarks",
        "--quick",
        "--only",
        "short-tls",
        "--json",
        str(tmp_path / "b"),
    ]
    done = subprocess.run(command, capture_output=True, cwd=ROOT, timeout=110, check=False)
    assert b"TLS: 500 short streams: every event, every end  all" in done.stdout, done.stderr
    assert done.returncode == 0
    assert b'"short-tls"' in (tmp_path / "b").read_bytes()


def test_the_page_has_a_place_for_each_table_and_keeps_what_was_not_measured() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert set(re.findall(r"<!-- figures: ([a-z ]+) -->", page)) == set(TABLES)
    figures = Figures(samples=[Sample(cpu=0.05, wall=1.0, events=10_000)], expected=10_000)
    judged = ROWS[0].judge({peer.label: [figures] for peer in ROWS[0].peers})
    run = Run(
        machine={"cores": 2, "system": "Linux", "python": "3.11.7", "packages": {"pykka": "4.4"}},
        rows={"one": {"bare loop": [figures], "ours, SubscriberActor": [figures]}},
        judgements=[{"row": "one", **each._asdict()} for each in judged],
    )
    made = filled(page, run)
    assert "2 cores, Linux, Python 3.11.7, loopback; pykka 4.4." in made
    assert "| event: 1 stream, 1 consumer, 20,000 events of 200 bytes | 5 |  |  | 5 |  |" in made
    assert "| 1 stream, 1 plain actor | 100% of bare | ≥ 65% of bare | ≥ 75% of bare | and then |" in made
    [limits] = re.findall(r"<!-- figures: limits -->.*?<!-- end -->", page, re.DOTALL)
    assert limits in made
    assert filled(made, run) == made
