"""ManagerActor, the actor that an application asks for streams, and its ref.

The rules:

- The manager keeps no books: streams, names and slots stand in the table (`streams.registry`), which outlives it.
- No handler waits for a stream, a subscriber or the network, and none reads an application's own objects: a
  request for a stream was read in the asker's thread (`prepared`).
- No message of any kind ends the manager. A refused `ask` raises in the asker; a refused `tell` is logged as a warning.

`tree` builds the tree that the manager is part of.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Collection
from typing import Any, ClassVar, Unpack, cast

import pykka

from gemini_streams.errors import (
    GeminiStreamsError,
    HistoryGoneError,
    InvalidRequestError,
    StreamExistsError,
    shown,
)
from gemini_streams.messages import (
    Drain,
    GetStats,
    GetStreamInfo,
    ListStreams,
    ManagerStats,
    Patient,
    ResumeInteraction,
    Start,
    StartInteraction,
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
    InteractionOptions,
    ManagerOptions,
    Place,
    ResumeOptions,
    StreamOptions,
    seconds,
)
from gemini_streams.positions import Position
from gemini_streams.prepared import Prepared, Preparer, for_the_asker, named, one_ref, refused, several_refs
from gemini_streams.streams.observed import Attach, Detach
from gemini_streams.streams.registry import Sessions
from gemini_streams.streams.session import Session
from gemini_streams.tree import Tree
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


class ManagerRef(SupervisedRef["ManagerActor"]):
    """The manager's ref: a `pykka.ActorRef` that goes on working when the manager is restarted.

    The methods send the request of the same name and wait for the answer, at most `timeout` seconds
    (`pykka.Timeout`); they raise what the manager refuses with.

    A request for a stream is read in the thread that asks or tells: its pictures are encoded there, and its pydantic
    objects are read there. On an event loop that is the loop's thread.
    """

    _preparer: Preparer

    def prepared(self, message: Any) -> Any:
        """Return the message as the manager's inbox takes it: a request for a stream is read in the calling thread.

        Raises `InvalidRequestError`, `MissingCredentialsError`, and what the objects in the request raise.
        """
        if not isinstance(message, Start | Patient) or not self.is_alive():
            return message
        try:
            return self._preparer.prepare(message)
        except KeyboardInterrupt:  # the program's own, while its main thread reads the request
            raise
        except BaseException as error:  # noqa: BLE001 - no object in a request ends the asker's thread
            refusal = refused(error, message)
        raise refusal

    def tell(self, message: Any) -> None:
        """Send a message, from any thread; never blocks. Raises `pykka.ActorDeadError`.

        A request that is refused is logged as a warning.
        """
        try:
            message = self.prepared(message)
        except GeminiStreamsError as refusal:
            _log.warning("request_refused", request=type(message).__name__, error=str(refusal))
        except Exception:  # noqa: BLE001, S110 - `prepared` has logged it
            pass
        else:
            super().tell(message)

    def ask(self, message: Any, *, block: bool = True, timeout: float | None = None) -> Any:
        """Send a message and wait for its answer; as `pykka.ActorRef.ask`.

        Raises what the manager refuses with, `pykka.ActorDeadError`, or `pykka.Timeout` after `timeout` seconds. With
        `block=False` returns a future that does.
        """
        try:
            message = self.prepared(message)
        except Exception as refusal:
            if block:
                raise
            future: pykka.Future[Any] = pykka.ThreadingFuture()
            future.set_exception((type(refusal), refusal, refusal.__traceback__))
            return future
        return super().ask(message, block=block, timeout=timeout)

    def start_stream(
        self,
        contents: Any,
        *,
        subscriber: pykka.ActorRef[Any] | Collection[pykka.ActorRef[Any]],
        stream_id: str | None = None,
        tag: Any = None,
        concurrency_key: str | None = None,
        timeout: float | None = None,
        **options: Unpack[StreamOptions],
    ) -> str:
        """Start a stream; returns its id. The parameters are those of `StartStream`."""
        request = StartStream(
            contents,
            subscriber=cast("Any", subscriber),
            stream_id=stream_id,
            tag=tag,
            concurrency_key=concurrency_key,
            **options,
        )
        return cast("str", self.ask(request, timeout=timeout))

    def start_interaction(
        self,
        input: Any,  # noqa: A002 - the service's word
        *,
        subscriber: pykka.ActorRef[Any] | Collection[pykka.ActorRef[Any]],
        timeout: float | None = None,
        **options: Unpack[InteractionOptions],
    ) -> str:
        """Start an interaction; returns its stream's id. The parameters are those of `StartInteraction`."""
        request = StartInteraction(input, subscriber=cast("Any", subscriber), **options)
        return cast("str", self.ask(request, timeout=timeout))

    def resume_interaction(
        self,
        cursor: str,
        *,
        subscriber: pykka.ActorRef[Any] | Collection[pykka.ActorRef[Any]],
        timeout: float | None = None,
        **options: Unpack[ResumeOptions],
    ) -> str:
        """Read an interaction on; returns its stream's id. The parameters are those of `ResumeInteraction`."""
        request = ResumeInteraction(cursor, subscriber=cast("Any", subscriber), **options)
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
        """Return a `StreamInfo`: status, model, counts, subscribers."""
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
    """Runs many streams at once. `ManagerRef` has a method for each of its requests."""

    ref_class: ClassVar[type[SupervisedRef[Any]]] = ManagerRef

    def __init__(self, tree: Tree) -> None:
        super().__init__()
        cast("ManagerRef", self.actor_ref)._preparer = tree.preparer  # noqa: SLF001 - the ref is this actor's own
        self._tree = tree
        self._table = tree.table
        self._options = tree.options
        self._handlers: dict[type[Any], Callable[[Any], Any]] = {
            Prepared: self._start_stream,
            StartStream: self._prepare_and_start,
            StartInteraction: self._prepare_and_start,
            ResumeInteraction: self._prepare_and_start,
            Patient: self._prepare_and_start,
            StopStream: lambda m: self._stop_stream(m.stream_id),
            Subscribe: self._subscribe,
            Unsubscribe: self._unsubscribe,
            GetStreamInfo: lambda m: self._table.find(named(m.stream_id)).info(),
            ListStreams: lambda _m: [session.stream_id for session in self._table.all()],
            GetStats: lambda _m: self._table.stats(),
            Attach: self._attach,
            Detach: lambda m: self._table.observed.remove(m.tap),
        }

    @classmethod
    def start(cls, **options: Unpack[ManagerOptions]) -> ManagerRef:
        """Start a manager and the tree it stands on; returns the manager's ref.

        Raises `InvalidRequestError` for options that cannot be right, and whatever keeps the tree from starting.
        """
        tree = Tree(options, cls)
        Supervisor.start(
            tree.children, auto_shutdown="any_significant", clock=tree.options.clock, observers=tree.feed
        )
        return cast("ManagerRef", tree.manager)

    @classmethod
    def start_link(cls, **options: Unpack[ManagerOptions]) -> ManagerRef:
        """Do the same; called in a supervised actor's thread, tie the tree to that actor (`pykka_supervisor.link`).

        When the actor ends, the tree ends in order before the actor's own hooks run. When the tree dies, the actor is
        killed.
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
        tree = Tree(options, cls, name)
        return ChildSpec(
            Supervisor,
            (tree.children,),
            {"auto_shutdown": "any_significant", "clock": tree.options.clock, "observers": tree.feed},
            id=id,
            restart="transient",
            type="supervisor",
        )

    def on_start(self) -> None:
        """Take the manager's place in the tree."""
        self._tree.manager = self.actor_ref

    def on_stop(self) -> None:
        """Give every subscriber its last message, where the manager was stopped in order."""
        if not self.shut_down:  # or its tree ends, and that knows why
            self._table.end_all("shutdown")

    def on_receive(self, message: Any) -> None:
        """Answer one request."""
        reply = self.defer_reply()
        asked = message.start if isinstance(message, Prepared) else message
        try:
            if isinstance(message, Drain):
                self._drain(message, reply)
                return
            handler: Callable[[Any], Any] = self._handlers.get(type(message), _unknown)
            reply.set(handler(message))
        except pykka.ActorDeadError as dead:
            reply.set_exception(dead)
        except BaseException as error:  # noqa: BLE001 - no message ends the manager
            told = refused(error, asked)
            if not reply.set_exception(told) and isinstance(error, GeminiStreamsError):
                _log.warning("request_refused", request=type(asked).__name__, error=str(error))

    def on_proxy_message(self, message: Any) -> Any:
        """Answer a proxy; a call that was told and raises does not end the manager either."""
        reply = self.defer_reply()
        try:
            reply.set(super().on_proxy_message(message))
        except BaseException as error:  # noqa: BLE001
            if not reply.set_exception(for_the_asker(error, message)):
                _log.warning("request_refused", request=type(message).__name__, error=type(error).__name__)

    # -- the handlers ------------------------------------------------------------------------------------------------

    def _prepare_and_start(self, request: Start | Patient) -> str:
        """Start a stream of a message that was put into the inbox as it is."""
        return self._start_stream(self._tree.preparer.prepare(request))

    def _start_stream(self, prepared: Prepared) -> str:
        start, options, subscribers, stream_id, request, targets, models, key, patient, context = prepared
        if stream_id is not None:
            session = self._table.get(stream_id)
            if session is not None and session.status != "stopped":
                if not session.asks_the_same(request, models, targets):
                    raise StreamExistsError(
                        f"another stream runs or lingers under the id {shown(stream_id)}: its contents, model, base"
                        " URL, key or headers are others"
                    )
                for ref in subscribers:
                    if session.members.join(ref) is not None:
                        self._table.watch(ref, session)
                return session.stream_id
        self._table.check_admission(patient=patient)
        fresh = uuid.uuid4().hex
        session = Session(
            stream_id=stream_id or fresh,
            run=fresh[:8],
            tag=start.tag,
            request=request,
            targets=targets,
            models=models,
            concurrency_key=key,
            options=options,
            table=self._table,
            patient=patient,
            context=context,
        )
        if self.retired:  # killed meanwhile: the asker is told that nothing was done
            raise pykka.ActorDeadError(f"{self.actor_ref} was killed before it had started the stream")
        for ref in subscribers:  # before the stream has a slot: with one it may begin at any moment
            session.members.subscribe(ref, None, None)
        self._table.add(session)
        for ref in subscribers:
            self._table.watch(ref, session)
        self._table.observed.started(session, len(subscribers), slot=session.slot and not session.deferred)
        self._table.start(session)
        return session.stream_id

    def _stop_stream(self, stream_id: Any) -> bool:
        session = self._table.get(named(stream_id))
        return session is not None and session.stop("requested")

    def _subscribe(self, request: Subscribe) -> None:
        [ref] = several_refs(request.subscriber)
        if request.flow is not None and not isinstance(request.flow, FlowControl):
            raise InvalidRequestError(
                f"flow must be a FlowControl or None, not {type(request.flow).__name__}"
            )
        session = self._table.find(named(request.stream_id))
        if session.members.subscribe(ref, _checked_after(request.after, session), request.flow) is not None:
            self._table.watch(ref, session)

    def _unsubscribe(self, request: Unsubscribe) -> bool:
        ref = one_ref(request.subscriber)
        session = self._table.get(named(request.stream_id))
        return session is not None and session.members.unsubscribe(ref.actor_urn)

    def _attach(self, request: Attach) -> Sessions:
        self._table.observed.add(request.tap)
        return self._table

    def _drain(self, request: Drain, reply: Any) -> None:
        timeout = seconds("Drain.timeout", request.timeout, zero=True)
        table = self._table
        timer = self._options.clock.call_later(timeout, lambda: reply.set(table.end_all("shutdown")))

        def drained() -> None:
            if timer.cancel():
                reply.set(0)

        table.drain(drained)


def _unknown(message: Any) -> None:
    kind = type(message).__name__
    raise InvalidRequestError(
        f"the manager knows no message of type {kind}: send one of gemini_streams.messages"
    )


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
