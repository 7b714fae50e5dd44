"""The tree that a manager stands on: what its actors share, and how it is built.

    root (Supervisor, ends when the manager ends in order)
    ├── errands (Errands): cancels work at the server
    ├── streams (StreamSupervisor)
    │   └── one StreamActor a stream
    ├── manager (ManagerActor)
    └── observers (ObserverActor), where there are any; the first one to start and the last one to end

The tree checks the manager's options before it starts anything: `InvalidRequestError`.
"""

from __future__ import annotations

import contextlib
import resource
from typing import Any

import pykka

from gemini_streams.api.checks import check_model
from gemini_streams.api.chosen import api
from gemini_streams.errors import MissingCredentialsError
from gemini_streams.http.connections import Connections
from gemini_streams.options import ManagerOptions, Settings, endpoints_of, limits
from gemini_streams.prepared import Preparer
from gemini_streams.streams.errands import Errands
from gemini_streams.streams.registry import Sessions
from gemini_streams.streams.supervisor import StreamSupervisor
from pykka_supervisor import ChildSpec, SupervisedActor
from pykka_supervisor.log import get_logger
from pykka_supervisor.observe import Feed

__all__ = ["Tree"]

_log = get_logger(__name__)

_SPARE_DESCRIPTORS = 64


class Tree:
    """What the actors of one tree share, and how the tree is built."""

    manager: pykka.ActorRef[Any]
    """The manager's ref, once its first incarnation has started."""

    def __init__(
        self, options: ManagerOptions, manager: type[SupervisedActor], name: str | None = None
    ) -> None:
        self.options = chosen = Settings(**options)
        chosen.check()
        _check_defaults(chosen, resolve="endpoint" in options)
        _check_descriptors(chosen.max_streams)
        self.preparer = Preparer(chosen, own_idle_timeout="idle_timeout" in options)
        self.table = Sessions(
            max_streams=chosen.max_streams,
            max_waiting=chosen.max_waiting,
            linger=chosen.linger,
            clock=chosen.clock,
            concurrency=limits("concurrency", chosen.concurrency),
        )
        connections = Connections(chosen.connect_timeout, chosen.max_streams, chosen.clock)
        self.feed = Feed(tuple(chosen.observers), chosen.observer_queue, chosen.shutdown)
        if self.feed.observers:
            self.table.observed.add(self.feed)
        streams = {
            "table": self.table,
            "connections": connections,
            "shutdown": chosen.shutdown,
            "clock": chosen.clock,
        }
        self.children = (
            ChildSpec(
                Errands,
                (self.table, connections, chosen.clock),
                id="errands",
                shutdown=chosen.shutdown,
            ),
            ChildSpec(StreamSupervisor, (), streams, id="streams", shutdown=chosen.shutdown),
            ChildSpec(
                manager,
                (self,),
                id="manager",
                name=name,
                restart="transient",
                significant=True,
                shutdown=chosen.shutdown,
            ),
        )


def _check_defaults(options: Settings, *, resolve: bool) -> None:
    """Refuse what every stream would be refused for: `InvalidRequestError`.

    The environment's endpoint is not resolved: all streams may have endpoints of their own. A key may come later.
    """
    api.request("any", options.config)
    check_model(options.model)
    if resolve:
        with contextlib.suppress(MissingCredentialsError):
            for endpoint in endpoints_of(options.endpoint):
                endpoint.resolve()


def _check_descriptors(max_streams: int) -> None:
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = max_streams + _SPARE_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and needed > soft:
        _log.warning(
            "too_few_descriptors",
            max_streams=max_streams,
            needed=needed,
            soft_limit=soft,
            advice=f"raise the soft limit (ulimit -n {needed}) or lower max_streams",
        )
