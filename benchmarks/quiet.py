"""How much of the two cores other processes had while something was measured."""

from __future__ import annotations

import os
import resource
from pathlib import Path

__all__ = ["Others"]

_TICK = os.sysconf("SC_CLK_TCK")


def _busy(core: int) -> float:
    """Seconds in which a core was not idle."""
    try:
        lines = Path("/proc/stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0.0
    for line in lines:
        name, *fields = line.split()
        if name == f"cpu{core}":
            user, nice, system, _idle, _wait, irq, soft, *_ = map(int, fields)
            return (user + nice + system + irq + soft) / _TICK
    return 0.0


def _children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _process(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICK


class Others:
    """From its making to `shares`: what others took of the client's and the server's core, 0 to 1."""

    def __init__(self, client_core: int, server_core: int, server: int) -> None:
        self._cores = (client_core, server_core)
        self._server = server
        self._then = self._now()

    def _now(self) -> tuple[float, float, float, float, float]:
        client, server = self._cores
        uptime = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0]) if _busy(0) else 0.0
        return uptime, _busy(client), _busy(server), _children(), _process(self._server)

    def shares(self) -> tuple[float, float]:
        """Zeros where the system does not tell."""
        passed, client, server, own, serving = (b - a for a, b in zip(self._then, self._now(), strict=True))
        if passed <= 0:
            return 0.0, 0.0
        return max(client - own, 0.0) / passed, max(server - serving, 0.0) / passed
