"""ManagerActor: the requests of section 3 of the contract, and the tree they stand on.

The tree:

    root (Supervisor, ends when the manager ends in order)
    ├── streams (StreamSupervisor)
    │   └── one StreamActor a session
    └── manager (ManagerActor)

The manager keeps no books: streams, names and slots stand in the table (`sessions`), which outlives it. No handler
waits for a stream, a subscriber or the network, and no message of any kind ends the manager: a refusal is raised at
who asked, and is a warning line where the request was told.
"""

from __future__ import annotations

import contextlib
import resource
import time
import uuid
from collections.abc import Callable, Collection
from typing import Any, ClassVar, Unpack, cast

import pykka

from gemini_streams import refusals
from gemini_streams.api.chosen import api
from gemini_streams.api.endpoint import Target, model_path
from gemini_streams.errors import (
    GeminiStreamsError,
    HistoryGoneError,
    InvalidRequestError,
    MissingCredentialsError,
    StreamExistsError,
    shown,
)
from gemini_streams.http.connections import Connections
from gemini_streams.messages import (
    Drain,
    GetStats,
    GetStreamInfo,
    ListStreams,
    ManagerStats,
    PatientStart,
    StartStream,
    StopStream,
    StreamInfo,
    Subscribe,
    Unsubscribe,
)
from gemini_streams.options import (
    After,
    FlowControl,
    FromStart,
    ManagerOptions,
    Place,
    Settings,
    StreamOptions,
    seconds,
)
from gemini_streams.positions import Position
from gemini_streams.streams.registry import Sessions
from gemini_streams.streams.session import Session
from gemini_streams.streams.supervisor import StreamSupervisor
from gemini_streams.traces import trace_of
from pykka_supervisor import (
    ChildSpec,
    SupervisedActor,
    SupervisedRef,
    Supervisor,
    link,
    supervisor_of,
)
from pykka_supervisor.incarnation import current_incarnation
from pykka_supervisor.log import get_logger

__all__ = ["ManagerActor", "ManagerRef"]

_log = get_logger(__name__)

_SPARE_DESCRIPTORS = 64


class ManagerRef(SupervisedRef["ManagerActor"]):
    """The manager's ref: a `pykka.ActorRef` that goes on working when the manager is restarted.

    The methods send the request of the same name and wait for the answer, at most `timeout` seconds
    (`pykka.Timeout`); they raise what the manager refuses with.
    """

    def start_stream(
        self,
        contents: Any,
        *,
        subscriber: pykka.ActorRef[Any] | Collection[pykka.ActorRef[Any]],
        stream_id: str | None = None,
        tag: Any = None,
        timeout: float | None = None,
        **options: Unpack[StreamOptions],
    ) -> str:
        """Start a stream; returns its id. The parameters are those of `StartStream`."""
        request = StartStream(
            contents, subscriber=cast("Any", subscriber), stream_id=stream_id, tag=tag, **options
        )
        return cast("str", self.ask(request, timeout=timeout))

    def stop_stream(self, stream_id: str, *, timeout: float | None = None) -> bool:
        """End a stream; `True` if this ended it."""
        return cast("bool", self.ask(StopStream(stream_id), timeout=timeout))

    def subscribe_stream(
        self,
        stream_id: str,
        subscriber: pykka.ActorRef[Any],
        *,
        after: After = None,
        flow: FlowControl | None = None,
        timeout: float | None = None,
    ) -> None:
        """Join a stream."""
        self.ask(Subscribe(stream_id, subscriber, after, flow), timeout=timeout)

    def unsubscribe_stream(
        self, stream_id: str, subscriber: pykka.ActorRef[Any], *, timeout: float | None = None
    ) -> bool:
        """Leave a stream; `True` if the subscriber left."""
        return cast("bool", self.ask(Unsubscribe(stream_id, subscriber), timeout=timeout))

    def get_stream_info(self, stream_id: str, *, timeout: float | None = None) -> StreamInfo:
        """Return what there is to know of a stream."""
        return cast("StreamInfo", self.ask(GetStreamInfo(stream_id), timeout=timeout))

    def list_streams(self, *, timeout: float | None = None) -> list[str]:
        """Return the ids of all visible streams, oldest first."""
        return cast("list[str]", self.ask(ListStreams(), timeout=timeout))

    def get_stats(self, *, timeout: float | None = None) -> ManagerStats:
        """Return the manager's figures."""
        return cast("ManagerStats", self.ask(GetStats(), timeout=timeout))

    def stop(self, *, block: bool = True, timeout: float | None = None) -> Any:
        """End the whole tree in order: every stream gets its last message, and no thread is left.

        As `pykka.ActorRef.stop`; waits, at most `timeout` seconds (`pykka.Timeout`), for the end of the last thread.
        The tree's log lines are written by then, unless that takes longer than the manager's `shutdown`.
        """
        tree = supervisor_of(self)
        stopping = super().stop(block=False)

        def ended(timeout: float | None) -> bool:
            until = None if timeout is None else time.monotonic() + timeout
            was_alive = stopping.get(timeout=timeout)
            left = None if until is None else max(0.0, until - time.monotonic())
            if tree is not None and not tree.join(left):
                raise pykka.Timeout(f"{timeout} seconds")
            self._flush_logs(until)
            return was_alive

        if block:
            return ended(timeout)
        future: pykka.Future[bool] = pykka.ThreadingFuture()
        future.set_get_hook(ended)
        return future


class ManagerActor(SupervisedActor):
    """Runs many streams at once; see `ManagerRef` for what can be asked of it."""

    ref_class: ClassVar[type[SupervisedRef[Any]]] = ManagerRef

    def __init__(self, tree: _Tree) -> None:
        super().__init__()
        self._tree = tree
        self._table = tree.table
        self._options = tree.options
        self._targets: dict[Any, Target] = {}
        self._handlers: dict[type[Any], Callable[[Any], Any]] = {
            StartStream: self._start_stream,
            PatientStart: self._start_stream,
            StopStream: lambda m: self._stop_stream(m.stream_id),
            Subscribe: self._subscribe,
            Unsubscribe: self._unsubscribe,
            GetStreamInfo: lambda m: self._table.find(_named(m.stream_id)).info(),
            ListStreams: lambda _m: [session.stream_id for session in self._table.all()],
            GetStats: lambda _m: self._table.stats(),
        }

    @classmethod
    def start(cls, **options: Unpack[ManagerOptions]) -> ManagerRef:
        """Start a manager and the tree it stands on; returns the manager's ref.

        Raises `InvalidRequestError` for options that cannot be right, and whatever keeps the tree from starting.
        """
        tree = _Tree(options)
        Supervisor.start(tree.children, auto_shutdown="any_significant", clock=tree.options.clock)
        return tree.manager

    @classmethod
    def start_link(cls, **options: Unpack[ManagerOptions]) -> ManagerRef:
        """Do the same; called in a supervised actor's thread, tie the tree to that actor (`pykka_supervisor.link`).

        The tree then ends in order before the actor's own hooks run, whatever that ends of, and the actor is killed
        when the tree dies.
        """
        ref = cls.start(**options)
        tree = supervisor_of(ref)
        if tree is not None and current_incarnation() is not None:
            link(tree)
        return ref

    @classmethod
    def child_spec(
        cls,
        *,
        id: str = "gemini_streams",  # noqa: A002 - OTP's and ChildSpec's word
        name: str | None = None,
        **options: Unpack[ManagerOptions],
    ) -> ChildSpec:
        """The same tree as one child of an application's own supervisor; `name` is the manager's, for `whereis`."""
        tree = _Tree(options, name)
        return ChildSpec(
            Supervisor,
            (tree.children,),
            {"auto_shutdown": "any_significant", "clock": tree.options.clock},
            id=id,
            restart="transient",
            type="supervisor",
        )

    def on_start(self) -> None:
        """Take the manager's place in the tree."""
        self._tree.manager = cast("ManagerRef", self.actor_ref)

    def on_stop(self) -> None:
        """Give every subscriber its last message, where the manager was stopped in order."""
        if not self.shut_down:  # or its tree ends, and that knows why
            self._table.end_all("shutdown")

    def on_receive(self, message: Any) -> None:
        """Answer one request."""
        reply = self.defer_reply()
        try:
            if isinstance(message, Drain):
                self._drain(message, reply)
                return
            handler: Callable[[Any], Any] = self._handlers.get(type(message), _unknown)
            reply.set(handler(message))
        except GeminiStreamsError as refusal:
            refusal.__traceback__ = refusal.__context__ = None
            if isinstance(message, StartStream):
                refusals.note(refusal, message.subscriber)
            if not reply.set_exception(refusal):
                _log.warning("request_refused", request=type(message).__name__, error=str(refusal))
        except pykka.ActorDeadError as dead:
            reply.set_exception(dead)
        except BaseException as bug:  # noqa: BLE001 - no message ends the manager
            _log.error("request_failed", request=type(message).__name__, trace=trace_of(bug))
            reply.set_exception(_for_the_asker(bug, message))

    def on_proxy_message(self, message: Any) -> Any:
        """Answer a proxy; a call that was told and raises does not end the manager either."""
        reply = self.defer_reply()
        try:
            reply.set(super().on_proxy_message(message))
        except BaseException as error:  # noqa: BLE001
            if not reply.set_exception(_for_the_asker(error, message)):
                _log.warning("request_refused", request=type(message).__name__, error=type(error).__name__)

    # -- the handlers ------------------------------------------------------------------------------------------------

    def _start_stream(self, request: StartStream) -> str:
        options = self._options.for_stream(request)
        subscribers = _subscribers(request.subscriber)
        stream_id: Any = request.stream_id
        if stream_id is not None and not (isinstance(stream_id, str) and stream_id):
            raise InvalidRequestError(f"stream_id must be a string that is not empty, not {shown(stream_id)}")
        if stream_id is not None:
            stream_id = _named(stream_id)
        built = api.request(request.contents, options.config)
        model_path(options.model)
        target = self._target(options.endpoint)
        if stream_id is not None:
            session = self._table.get(stream_id)
            if session is not None and session.status != "stopped":
                if not session.asks_the_same(built, options.model, target):
                    raise StreamExistsError(
                        f"another stream runs or lingers under the id {shown(stream_id)}: its contents, model, base"
                        " URL, key or headers are others"
                    )
                for ref in subscribers:
                    if session.join(ref) is not None:
                        self._table.watch(ref, session)
                return session.stream_id
        patient = isinstance(request, PatientStart)
        self._table.check_admission(patient=patient)
        fresh = uuid.uuid4().hex
        session = Session(
            stream_id=stream_id or fresh,
            run=fresh[:8],
            tag=request.tag,
            request=built,
            target=target,
            options=options,
            table=self._table,
            patient=patient,
        )
        if self.retired:  # killed meanwhile: whoever asked is told that nothing was done
            raise pykka.ActorDeadError(f"{self.actor_ref} was killed before it had started the stream")
        for ref in subscribers:  # before the stream has a slot: with one it may begin at any moment
            session.subscribe(ref, None, None)
        self._table.add(session)
        for ref in subscribers:
            self._table.watch(ref, session)
        self._table.start(session)
        return session.stream_id

    def _target(self, endpoint: Any) -> Target:
        try:
            target = self._targets.get(endpoint)
        except TypeError:  # an endpoint of values that cannot be right is not hashable
            return cast("Target", endpoint.resolve())
        if target is None:
            target = endpoint.resolve()
            if len(self._targets) >= 256:
                self._targets.clear()
            self._targets[endpoint] = target
        return target

    def _stop_stream(self, stream_id: Any) -> bool:
        session = self._table.get(_named(stream_id))
        return session is not None and session.stop("requested")

    def _subscribe(self, request: Subscribe) -> None:
        [ref] = _subscribers(request.subscriber)
        if request.flow is not None and not isinstance(request.flow, FlowControl):
            raise InvalidRequestError(
                f"flow must be a FlowControl or None, not {type(request.flow).__name__}"
            )
        session = self._table.find(_named(request.stream_id))
        if session.subscribe(ref, _checked_after(request.after, session), request.flow) is not None:
            self._table.watch(ref, session)

    def _unsubscribe(self, request: Unsubscribe) -> bool:
        ref = _subscriber(request.subscriber)
        session = self._table.get(_named(request.stream_id))
        return session is not None and session.unsubscribe(ref.actor_urn)

    def _drain(self, request: Drain, reply: Any) -> None:
        timeout = seconds("Drain.timeout", request.timeout, zero=True)
        table = self._table
        timer = self._options.clock.call_later(timeout, lambda: reply.set(table.end_all("shutdown")))

        def drained() -> None:
            if timer.cancel():
                reply.set(0)

        table.drain(drained)


class _Tree:
    """What the actors of one tree share, and how the tree is built."""

    manager: ManagerRef

    def __init__(self, options: ManagerOptions, name: str | None = None) -> None:
        self.options = chosen = Settings(**options)
        chosen.check()
        _check_defaults(chosen, resolve="endpoint" in options)
        _check_descriptors(chosen.max_streams)
        self.table = Sessions(
            max_streams=chosen.max_streams,
            max_waiting=chosen.max_waiting,
            linger=chosen.linger,
            clock=chosen.clock,
        )
        streams = {
            "table": self.table,
            "connections": Connections(chosen.connect_timeout, chosen.max_streams, chosen.clock),
            "shutdown": chosen.shutdown,
            "clock": chosen.clock,
        }
        self.children = (
            ChildSpec(StreamSupervisor, (), streams, id="streams", shutdown=chosen.shutdown),
            ChildSpec(
                ManagerActor,
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
    model_path(options.model)
    if resolve:
        with contextlib.suppress(MissingCredentialsError):
            options.endpoint.resolve()


def _for_the_asker(error: BaseException, message: Any) -> Exception:
    """Return what the asker is told of an exception that an object in its request raised.

    A `CancelledError` or `SystemExit` would end the asker's task or thread: it gets `InvalidRequestError` in its place.
    """
    if isinstance(error, Exception):
        return error
    return InvalidRequestError(
        f"an object in the {type(message).__name__} raised {type(error).__name__} when it was read"
    )


def _unknown(message: Any) -> None:
    kind = type(message).__name__
    raise InvalidRequestError(
        f"the manager knows no message of type {kind}: send one of gemini_streams.messages"
    )


def _named(stream_id: Any) -> str:
    if not isinstance(stream_id, str):
        raise InvalidRequestError(f"a stream_id is a string, not {type(stream_id).__name__}")
    return str.__str__(stream_id)  # no subclass: it is a key of tables, looked up with a lock held


def _subscriber(given: Any) -> pykka.ActorRef[Any]:
    if not isinstance(given, pykka.ActorRef):
        raise InvalidRequestError(f"a subscriber must be a pykka.ActorRef, not {type(given).__name__}")
    return given


def _subscribers(given: Any) -> list[pykka.ActorRef[Any]]:
    """Return the refs of a request's `subscriber`; raises `InvalidRequestError` where one is none, or dead."""
    if given is None:
        raise InvalidRequestError("a stream needs at least one subscriber")
    several = isinstance(given, Collection) and not isinstance(given, str | bytes)
    refs = [_subscriber(ref) for ref in (given if several else [given])]
    if not refs:
        raise InvalidRequestError("a stream needs at least one subscriber")
    for ref in refs:
        if not ref.is_alive():
            raise InvalidRequestError(f"the subscriber {ref} is dead")
    return refs


def _checked_after(after: Any, session: Session) -> Place:
    if isinstance(after, str):
        run, attempt, sequence = Position.of(after)
        if run != session.run:
            raise HistoryGoneError(
                f"the position {after} is of an earlier run of the stream {shown(session.stream_id)}: its events are"
                " gone; FROM_START gives those of the present run"
            )
        return (attempt, sequence)
    if after is None or isinstance(after, FromStart):
        return after
    if (
        isinstance(after, tuple | list)
        and len(after) == 2
        and all(isinstance(number, int) and not isinstance(number, bool) for number in after)
        and after[0] >= 1
        and after[1] >= -1
    ):
        return (after[0], after[1])
    raise InvalidRequestError(
        "after must be None, FROM_START, or the position or (attempt, sequence) of the last event seen,"
        f" not {shown(after)}"
    )


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
