"""A request for a stream, read in the asker's thread: what the manager needs to start the stream, all of it checked.

The rules:

- The contents and the config are an application's own objects. To read them can take long (a picture is encoded) and
  can raise anything. So the thread that asks reads them, and the manager's thread gets bytes.
- `ManagerRef` prepares what is asked and told through it. A request that reaches the manager's inbox some other
  way is prepared by the manager.
- A refused `ask` raises in the asker. A refused `tell` is logged as a warning.
"""

from __future__ import annotations

import contextvars
from collections.abc import Collection
from typing import Any, NamedTuple, cast

import msgspec
import pykka

from gemini_streams import refusals
from gemini_streams.api.chosen import api, interaction_request, resumed_request
from gemini_streams.api.endpoint import Target
from gemini_streams.api.protocol import Request
from gemini_streams.errors import GeminiStreamsError, InvalidRequestError, shown
from gemini_streams.messages import Patient, ResumeInteraction, Start, StartInteraction, StartStream
from gemini_streams.options import Settings, endpoints_of, key_of, seconds
from gemini_streams.traces import trace_of
from pykka_supervisor.log import get_logger

__all__ = ["Prepared", "Preparer", "for_the_asker", "named", "one_ref", "refused", "several_refs"]

_log = get_logger(__name__)

_MOST_TARGETS = 256
_IDLE_TIMEOUT = 180.0
"""Seconds, where neither the request nor the manager sets it: an interaction in the background is silent for longer."""


class Prepared(NamedTuple):
    """A request for a stream, read and checked."""

    start: Start
    """The message as it was sent: for its tag, and for log lines."""
    options: Settings
    subscribers: list[pykka.ActorRef[Any]]
    stream_id: str | None
    request: Request
    targets: tuple[Target, ...]
    """Those of the endpoints, in order."""
    models: tuple[str, ...]
    """What each of them is asked for."""
    concurrency_key: str | None
    """Which limit holds for it; `None`: its model's."""
    patient: bool
    """Whether it waits for a slot, however many wait already."""
    context: contextvars.Context | None
    """The asker's context variables, for observers."""

    def __repr__(self) -> str:
        return f"Prepared({self.start!r})"


class Preparer:
    """Prepares the requests of one manager; any number of threads use it at once."""

    def __init__(self, options: Settings, *, own_idle_timeout: bool = False) -> None:
        self._options = options
        self._own_idle_timeout = own_idle_timeout  # whether the application has set the manager's
        self._targets: dict[Any, Target] = {}  # any thread adds to it; two may resolve the same endpoint

    def prepare(self, message: Start | Patient) -> Prepared:
        """Read a request in the calling thread.

        Raises `InvalidRequestError`, `MissingCredentialsError`, and what the objects in the request raise.
        """
        start = message.start if isinstance(message, Patient) else message
        if not isinstance(start, Start):
            raise InvalidRequestError(f"a {type(start).__name__} starts no stream")
        options = self._options.for_stream(start)
        subscribers = several_refs(start.subscriber)
        stream_id: Any = start.stream_id
        if stream_id is not None and not (isinstance(stream_id, str) and stream_id):
            raise InvalidRequestError(f"stream_id must be a string that is not empty, not {shown(stream_id)}")
        targets = tuple(map(self._target, endpoints_of(options.endpoint)))
        own = targets[0].model
        if own is not None:
            options, asked = msgspec.structs.replace(options, model=own), options.model
        else:
            asked = options.model
        request: Request
        if isinstance(start, StartStream):
            request = api.request(start.contents, options.config)
        else:
            options, request = self._interaction(start, options)
        models = (options.model,) * len(targets)
        if not isinstance(start, ResumeInteraction):
            if not isinstance(start, StartInteraction) or start.agent is None:
                models = tuple(target.model or asked for target in targets)
            for target, model in zip(targets, models, strict=True):
                target.model_path(model)
        return Prepared(
            start,
            options,
            subscribers,
            None if stream_id is None else named(stream_id),
            request,
            targets,
            models,
            _key(start),
            isinstance(message, Patient),
            contextvars.copy_context() if options.observers else None,
        )

    def _interaction(
        self, start: StartInteraction | ResumeInteraction, options: Settings
    ) -> tuple[Settings, Request]:
        """Return the options and the request of an interaction."""
        most = seconds("max_silence", start.max_silence)
        changes: dict[str, Any] = {}
        if start.idle_timeout is msgspec.UNSET and not self._own_idle_timeout:
            changes["idle_timeout"] = _IDLE_TIMEOUT
        if isinstance(start, ResumeInteraction):
            changes |= {"model": "", "config": None}
            request = resumed_request(
                start.cursor, cancel_on=start.cancel_on, max_silence=most, now=options.clock.monotonic()
            )
        else:
            changes |= {"config": start.config}
            if start.agent is not None:
                changes["model"] = start.agent
            request = interaction_request(
                start.input,
                start.config,
                model=options.model,
                agent=start.agent,
                previous_interaction_id=start.previous_interaction_id,
                resumable=start.resumable,
                store=start.store,
                cancel_on=start.cancel_on,
                max_silence=most,
            )
        return msgspec.structs.replace(options, **changes), request

    def _target(self, endpoint: Any) -> Target:
        try:
            target = self._targets.get(endpoint)
        except TypeError:  # an endpoint of values that cannot be right is not hashable
            return cast("Target", endpoint.resolve())
        if target is None:
            target = endpoint.resolve()
            if len(self._targets) >= _MOST_TARGETS:
                self._targets.clear()
            self._targets[endpoint] = target
        return target


def _key(start: Start) -> str | None:
    key: Any = start.concurrency_key if isinstance(start, StartStream) else None
    if key is None:
        return None
    if not isinstance(key, str) or not key:
        raise InvalidRequestError(f"concurrency_key must be a string that is not empty, not {shown(key)}")
    return key_of(key)


def refused(error: BaseException, message: Any) -> Exception:
    """Take note, in any thread, that a message is refused with this error; return the error for the asker."""
    if isinstance(error, GeminiStreamsError):
        error.__traceback__ = error.__context__ = None
        if isinstance(message, Start | Patient):
            refusals.note(error, message.subscriber)
        return error
    _log.error("request_failed", request=type(message).__name__, trace=trace_of(error))
    return for_the_asker(error, message)


def for_the_asker(error: BaseException, message: Any) -> Exception:
    """Return what the asker is told of an exception that an object in its request raised.

    A `CancelledError` or `SystemExit` would end the asker's task or thread, and a `StopIteration` would end its loop in
    silence: the asker gets `InvalidRequestError` in their place.
    """
    if isinstance(error, Exception) and not isinstance(error, StopIteration | StopAsyncIteration):
        return error
    return InvalidRequestError(
        f"an object in the {type(message).__name__} raised {type(error).__name__} when it was read"
    )


def named(stream_id: Any) -> str:
    """Return a stream's id as a plain `str`; raises `InvalidRequestError` where it is no string."""
    if not isinstance(stream_id, str):
        raise InvalidRequestError(f"a stream_id is a string, not {type(stream_id).__name__}")
    return str.__str__(stream_id)  # no subclass: it is a key of tables, looked up with a lock held


def several_refs(given: Any) -> list[pykka.ActorRef[Any]]:
    """Return the refs of a request's `subscriber`; raises `InvalidRequestError` where one is none, or dead."""
    if given is None:
        raise InvalidRequestError("a stream needs at least one subscriber")
    several = isinstance(given, Collection) and not isinstance(given, str | bytes)
    refs = [one_ref(ref) for ref in (given if several else [given])]
    if not refs:
        raise InvalidRequestError("a stream needs at least one subscriber")
    for ref in refs:
        if not ref.is_alive():
            raise InvalidRequestError(f"the subscriber {ref} is dead")
    return refs


def one_ref(given: Any) -> pykka.ActorRef[Any]:
    """Return a subscriber's ref; raises `InvalidRequestError` where it is none."""
    if not isinstance(given, pykka.ActorRef):
        raise InvalidRequestError(f"a subscriber must be a pykka.ActorRef, not {type(given).__name__}")
    return given
