"""`Dashboard`: the supervised actor that takes the looks and owns the server.

The rules:

- The actor's thread looks each second and closes slow connections. It never waits for a client.
- What has to outlive a crash of the actor stands in its `_Home`: the view with its histories, and the port. So the next
  incarnation serves the same address, and a browser's page goes on by itself.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Callable, Collection
from typing import Any, ClassVar, cast

import pykka

from gemini_streams.errors import InvalidRequestError
from gemini_streams.extras.dashboard.server import Server
from gemini_streams.extras.dashboard.view import View
from gemini_streams.extras.managers import ManyManagers, several_managers

try:
    from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

    from gemini_streams.extras.prometheus import PrometheusCollector
except ImportError:
    _HAS_PROMETHEUS = False
else:
    _HAS_PROMETHEUS = True
from pykka_supervisor import (
    ChildSpec,
    SupervisedActor,
    SupervisedRef,
    Supervisor,
    send_after,
    supervisor_of,
)

__all__ = ["Dashboard", "DashboardRef"]

_PERIOD = 1.0
"""Seconds between two looks."""
_LOCAL = frozenset(("localhost", "127.0.0.1", "::1"))


class _Look:
    """To the actor: take a look, and another one later."""


class _Came:
    """To the actor: a viewer has come; take a look."""


_LOOK = _Look()
_CAME = _Came()


class _Home:
    """What outlives an incarnation."""

    def __init__(self, manager: ManyManagers, host: Any, port: Any, allowed_hosts: Any) -> None:
        managers = several_managers(manager)
        if not isinstance(host, str) or not host:
            raise InvalidRequestError("host must be the name or address to listen at, such as 127.0.0.1")
        if type(port) is not int or not 0 <= port <= 65535:
            raise InvalidRequestError("port must be a number from 0 (any free one) to 65535")
        if isinstance(allowed_hosts, str) or not all(
            isinstance(name, str) and name for name in allowed_hosts
        ):
            raise InvalidRequestError("allowed_hosts must be a list of host names, without ports")
        self.view = View(managers)
        self.host = host
        self.port = port
        self.hosts = _LOCAL | {host.lower()} | {name.lower().strip("[]") for name in allowed_hosts}
        self.ref: DashboardRef | None = None

    @property
    def url(self) -> str:
        """Where a browser on this machine finds it."""
        host = self.host
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            pass
        else:
            if address.is_unspecified:
                host = "127.0.0.1" if address.version == 4 else "::1"
        return f"http://[{host}]:{self.port}/" if ":" in host else f"http://{host}:{self.port}/"


class DashboardRef(SupervisedRef["Dashboard"]):
    """The dashboard's ref."""

    _home: _Home
    _own_tree = False

    @property
    def url(self) -> str:
        """Its address for a browser; the same after a crash."""
        return self._home.url

    def stop(self, *, block: bool = True, timeout: float | None = None) -> Any:
        """Close it: no thread and no socket is left. As `pykka.ActorRef.stop`."""
        tree = supervisor_of(self) if self._own_tree else None
        stopped = super().stop(block=block, timeout=timeout)
        if block and tree is not None:
            tree.join(timeout)
        return stopped


class Dashboard(SupervisedActor):
    """A page on the standard library's HTTP server that shows what managers do, live. It is read-only.

    It answers under the names of this machine's loopback, under `host`, and under `allowed_hosts`; any other `Host` is
    refused. It asks nobody for a password: put it behind something that does before others can reach it.
    """

    ref_class: ClassVar[type[SupervisedRef[Any]]] = DashboardRef

    def __init__(self, home: _Home) -> None:
        super().__init__()
        self._home = home
        self._server: Server | None = None
        cast("DashboardRef", self.actor_ref)._home = home  # noqa: SLF001 - the ref is this actor's own

    @classmethod
    def start(
        cls,
        manager: ManyManagers,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        allowed_hosts: Collection[str] = (),
    ) -> DashboardRef:
        """Start one, under a supervisor of its own.

        `manager` is a ref, a registered name, or a list of those. `port=0` takes a free one: see the ref's `url`.
        `allowed_hosts` are further names, without a port, under which browsers may ask for the page.

        Raises `InvalidRequestError`, and `OSError` where the address is not to be had.
        """
        home = _Home(manager, host, port, allowed_hosts)
        spec = ChildSpec(cls, (home,), id="dashboard", restart="transient", significant=True)
        Supervisor.start([spec], auto_shutdown="any_significant")
        ref = cast("DashboardRef", home.ref)
        ref._own_tree = True  # noqa: SLF001
        return ref

    @classmethod
    def child_spec(
        cls,
        manager: ManyManagers,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        allowed_hosts: Collection[str] = (),
        id: str = "dashboard",  # noqa: A002 - OTP's and ChildSpec's word
        name: str | None = None,
    ) -> ChildSpec:
        """The same as one child of an application's own supervisor."""
        return ChildSpec(cls, (_Home(manager, host, port, allowed_hosts),), id=id, name=name)

    def on_start(self) -> None:
        """Open the server, and begin to look."""
        home = self._home
        home.ref = cast("DashboardRef", self.actor_ref)
        home.view.managers.found()
        ref = home.ref

        def came() -> None:
            with contextlib.suppress(pykka.ActorDeadError):
                ref.tell(_CAME)

        self._server = Server(home.view, (home.host, home.port), home.hosts, _metrics(home.view), came)
        home.port = self._server.port
        self._look()

    def on_receive(self, message: Any) -> None:
        """Look, or ignore the message."""
        if message is _LOOK:
            self._look()
        elif message is _CAME and self._server is not None:
            self._home.view.look(watched=True)

    def _look(self) -> None:
        server = self._server
        if server is None:
            return
        send_after(_PERIOD, self.actor_ref, _LOOK)
        server.sweep()
        self._home.view.look(watched=server.watched)

    def on_stop(self) -> None:
        """Close the server."""
        self._close()
        self._home.view.leave()

    def on_failure(self, *_: Any) -> None:
        """Close the server: the next incarnation opens one at the same address."""
        self._close()

    def _close(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()


def _metrics(view: View) -> Callable[[], tuple[bytes, str]] | None:
    """Return what makes the Prometheus scrape; `None` where prometheus-client is not installed."""
    if not _HAS_PROMETHEUS:
        return None
    if view.collector is None:
        view.collector = PrometheusCollector(*view.given)
    registry = CollectorRegistry()
    registry.register(view.collector)
    return lambda: (generate_latest(registry), CONTENT_TYPE_LATEST)
