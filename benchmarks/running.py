"""Runs the programs of a row, by turns, each in a process of its own on core 0; the server runs on core 1."""

from __future__ import annotations

import contextlib
import importlib.util
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from statistics import median

import msgspec

from benchmarks.kit import CLIENT_CORE, SERVER_CORE, Figures, Work
from benchmarks.quiet import Others
from benchmarks.row import Peer, Results, Row, per_event
from benchmarks.server import Certificate, Server, serving

__all__ = ["Failed", "brief", "measure", "run"]

NEEDS = {
    "aio": ("aiohttp", "orjson"),
    "bare": ("orjson",),
    "epoll": ("orjson",),
    "genai": ("google.genai",),
    "naive_pykka": ("orjson",),
    "threads": ("orjson",),
}
"""What a program imports beside what the project itself needs."""

DISTURBED = 0.3
"""A round in which others had more of a core than this is repeated, whatever it showed. (What the kernel does for the
sockets counts as others' here and there: up to 0.2 on a machine with nothing else to do.)"""
REPEATS = 3


class Failed(Exception):  # noqa: N818 - told as it is
    """A measurement did not come to its end."""


def run(module: str, kind: str, work: Work, *, limit: float = 400.0) -> Figures:
    """Measure once, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.kit", module, kind, msgspec.json.encode(work).decode()]
    try:
        done = subprocess.run(command, capture_output=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        raise Failed(f"not done after {limit:g} s") from None
    if done.returncode or not done.stdout.strip():
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["nothing was said"]
        raise Failed(f"ended with {done.returncode}: {last[0][:200]}")
    return msgspec.json.decode(done.stdout.strip().splitlines()[-1], type=Figures)


def missing(peer: Peer, certificate: Certificate | None) -> str | None:
    """Say why a program cannot run here."""
    if peer.work.tls and certificate is None:
        return "trustme is not installed"
    if peer.module == "epoll" and not hasattr(select, "epoll"):
        return "this system has no epoll"
    for needs in NEEDS.get(peer.module, ()):
        try:
            found = importlib.util.find_spec(needs) is not None
        except ModuleNotFoundError:
            found = False
        if not found:
            return f"{needs} is not installed"
    return None


@contextlib.contextmanager
def _server(row: Row, shared: Server) -> Iterator[Server]:
    """Give the server for one run."""
    if not row.fresh:
        yield shared
        return
    with serving(shared.certificate) as server:
        yield server


def measure(
    row: Row,
    shared: Server,
    notes: list[str],
    *,
    quick: bool,
    repeat: bool,
) -> Results:
    """Let a row's programs take turns. `repeat`: a round in which others had the cores is made again."""
    print(f"\n== {row.name}: {row.title}", flush=True)
    results: Results = {}
    peers: list[Peer] = []
    for peer in row.peers:
        why = missing(peer, shared.certificate)
        if why is None and quick and not peer.in_quick:
            why = "left out by --quick"
        if why:
            notes.append(f"{row.name}, {peer.label}: not run, {why}")
            print(f"   {peer.label}: not run, {why}", flush=True)
        else:
            peers.append(peer)
    rounds = (row.quick_rounds or 1) if quick else row.rounds
    for number in range(rounds):
        for peer in peers:
            if number >= (peer.rounds or rounds):
                continue
            said = f"   round {number + 1}/{rounds} {peer.label:<28}"
            figures = _once(row, peer, shared, said, repeat=repeat, notes=notes)
            if figures is not None:
                results.setdefault(peer.label, []).append(figures)
                notes += [f"{row.name}, {peer.label}: {note}" for note in figures.notes[:3]]
    return results


def _once(
    row: Row, peer: Peer, shared: Server, said: str, *, repeat: bool, notes: list[str]
) -> Figures | None:
    """Run one program; again where others had the cores."""
    for left in range(REPEATS if repeat else 0, -1, -1):
        began = time.monotonic()
        with _server(row, shared) as server:
            work = server.work(peer.work)
            others = Others(CLIENT_CORE, SERVER_CORE, server.process.pid)
            try:
                figures = run(peer.module, peer.kind, work)
            except Failed as why:
                notes.append(f"{row.name}, {peer.label}: {why}")
                print(f"{said} {why}", flush=True)
                return None
            client, other = others.shares()
        figures.values |= {"others_client_core": client, "others_server_core": other}
        took = time.monotonic() - began
        load = f"others had {client:.0%} and {other:.0%} of the cores; " if client + other > 0.05 else ""
        print(f"{said} {brief(row, figures, work.streams)}  [{load}{took:.0f} s]", flush=True)
        if not left or max(client, other) <= DISTURBED:
            return figures
        notes.append(f"{row.name}, {peer.label}: a round was repeated, others had the cores")
    return None


def brief(row: Row, figures: Figures, streams: int) -> str:
    """One measurement in a line."""
    parts = []
    if figures.samples:
        cpu = median(sample.cpu for sample in figures.samples)
        wall = median(sample.wall for sample in figures.samples)
        events = min(sample.events for sample in figures.samples)
        parts.append(f"{cpu:8.3f} CPU s {wall:8.3f} s")
        if row.unit == "stream":
            parts.append(f"{cpu / streams * 1e6:8.1f} µs a stream")
        else:
            parts.append(f"{per_event(figures) * 1e6:8.2f} µs {row.unit}")
        if events != figures.expected:
            parts.append(f"LOST {figures.expected - events:,} of {figures.expected:,}")
    parts += [
        f"{name} {number:,.2f}"
        for name, number in figures.values.items()
        if not name.endswith((" max", " ask", " told")) and not name.startswith("others_")
    ]
    return "  ".join(parts)
