"""The interactions that a LocalGemini keeps, and what each request for one is answered. In the server's thread.

The rules:

- A POST begins a run, whatever becomes of its answer.
- What is deleted or forgotten is answered 404. Its run goes on, and so do the streams that are open.
- `close` ends every run.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, NamedTuple

import msgspec

from gemini_streams.testing.interaction_calls import Call, calls_answered, no_such, refused, text_of
from gemini_streams.testing.interaction_options import Interaction
from gemini_streams.testing.interaction_runs import Run, View, error_of
from gemini_streams.testing.masks import Masks
from gemini_streams.testing.plans import PIECE, Piece, Plan
from gemini_streams.testing.records import Book, Gate, RequestRecord
from gemini_streams.testing.replies import JSON, Body, Failure, Raw, Reply

__all__ = ["Interactions", "Told", "plan_of_interaction", "worded"]

_UNDER_WAY = ("queued", "in_progress")


class Told(NamedTuple):
    """What a request is answered: a JSON body, or a stream of a run."""

    run: Run | None
    what: bytes | View


class Interactions:
    """What one server keeps. In the server's thread."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._runs: dict[str, Run] = {}
        self._all: list[Run] = []

    async def close(self) -> None:
        """End every run."""
        for run in self._all:
            await run.close()

    def answer(self, call: Call) -> Told | Failure | Body | Raw:
        """Return what a request gets that is no POST of a new interaction."""
        match call.action:
            case "cancel":
                run = self._cancel(call)
                return run if isinstance(run, Failure) else Told(run, _json(run.resource(steps=False)))
            case "delete":
                return self._delete(call) or Told(None, b"{}")
        found = self._get(call)
        if not isinstance(found, Run):
            return found
        if call.action == "get":
            return Told(found, _json(found.resource(with_input=True, given=call.include_input)))
        view = self._stream(found, call)
        return view if isinstance(view, Failure) else Told(found, view)

    async def begin(
        self, reply: Reply, options: Interaction, record: RequestRecord, gate: Gate | None, pace: float
    ) -> Told | Failure:
        """Carry out a POST; return its answer once there is one, or the API's error."""
        if record.body.get("background") and options.no_background:
            return Failure(
                400, f"Background interactions are not supported for {record.model}. Set background=false."
            )
        run = Run(f"v1_L{len(self._all) + 1}", reply, options, record, gate, pace, self._book)
        self._all.append(run)
        if run.stored:
            self._runs[run.name] = run
            record.interaction_id = run.name
        if options.post_lost:
            run.left_alone()
            return Told(run, b"")
        if record.body.get("stream"):
            return Told(run, View(run, 0))
        if run.background:
            return Told(run, _json(run.resource(steps=False)))
        try:
            await run.wait_over()
        finally:
            run.left_by_reader()
        return Told(run, _json(run.resource()))

    def decode(self, record: RequestRecord, body: bytes, masks: Masks) -> Failure | None:
        """Fill in the record of a POST; return what the API says to a body that it does not take."""
        try:
            record.body = masks.body(body, msgspec.json.decode(body))
        except msgspec.DecodeError:
            return Failure(400, "Invalid JSON payload received.")
        return refused(record.body) or self._refused_chain(record)

    def _refused_chain(self, record: RequestRecord) -> Failure | None:
        body = record.body
        record.model = body.get("agent") or str(body.get("model", "")).removeprefix("models/")
        record.text = text_of(body.get("input"))
        name = body.get("previous_interaction_id")
        if name is None:
            return None
        run = self._known(name)
        if run is None:
            return no_such(name)
        if run.status in _UNDER_WAY:
            return Failure(400, f"The interaction {name} is still in progress.")
        unknown = set(calls_answered(body.get("input"))) - run.open_calls()
        if unknown:
            return Failure(400, f"The interaction {name} has no function call {min(unknown)}.")
        if body.get("input") is None:
            record.text = run.text
        return None

    def _get(self, call: Call) -> Run | Failure | Body | Raw:
        """Count a GET; return the run, or what the GET is answered instead."""
        run = self._known(call.interaction_id)
        if run is None:
            return no_such(call.interaction_id)
        run.gets += 1
        if run.gets <= len(run.options.gets):
            instead: Failure | Body | Raw | None = run.options.gets[run.gets - 1]
            if instead is not None:
                return instead
        if call.masked:
            return Failure(400, "Field masks are not supported.")
        return run

    def _stream(self, run: Run, call: Call) -> View | Failure:
        """Return the stream that a GET asks for, or the API's error."""
        if call.last_event_id is None:
            return View(run, 0)
        for number, event in enumerate(run.log):
            if event.get("event_id") == call.last_event_id:
                return View(run, number + 1)
        return Failure(400, f"The last_event_id {call.last_event_id} is not valid.")

    def _cancel(self, call: Call) -> Run | Failure:
        """Cancel a background run; return it, or the API's error."""
        run = self._known(call.interaction_id)
        if run is None:
            return no_such(call.interaction_id)
        if not run.background or run.over:
            return Failure(400, f"The interaction {run.name} is no background work in progress.")
        if run.options.cancel_lag:
            asyncio.get_running_loop().call_later(run.options.cancel_lag, run.cancel)
        else:
            run.cancel()
        return run

    def _delete(self, call: Call) -> Failure | None:
        """Make an interaction unknown; return the API's error where it is so already."""
        run = self._known(call.interaction_id)
        if run is None:
            return no_such(call.interaction_id)
        run.known = False
        return None

    def _known(self, name: str | None) -> Run | None:
        run = self._runs.get(str(name))
        if run is None or not run.known:
            return None
        forget = run.options.forget_after
        return None if forget is not None and run.gets >= forget else run


def plan_of_interaction(told: Told, *, own: bool) -> Plan:
    """Return how it is sent. `own`: to the POST itself, which waits as its reply says."""
    reply = told.run.reply if told.run is not None and own else Reply()
    if isinstance(told.what, bytes):
        broken = own and reply.end != "clean" and told.run is not None and not told.run.background
        return Plan(
            pieces=[Piece(told.what, told.run.usage if told.run is not None and own else None)],
            headers={"Content-Type": JSON, **reply.headers},
            framing="length",
            headers_delay=reply.headers_delay,
            hold_before_headers=reply.hold_before_headers,
            end=reply.end if broken else "clean",
            end_after=0 if broken else None,
            half=broken and reply.half,
        )
    sent = told.run.reply if told.run is not None else reply
    return Plan(
        pieces=(),
        headers={"Content-Type": sent.content_type, **sent.headers},
        framing="close" if sent.framing == "close" else "chunked",
        gzip=sent.gzip,
        headers_delay=reply.headers_delay,
        hold_before_headers=reply.hold_before_headers,
        segment=sent.segment or PIECE,
    )


def worded(failure: Failure, options: Interaction) -> Failure:
    """Return an error of the HTTP status with its code as the options say."""
    if not options.string_codes or failure.body is not None:
        return failure
    error = {"error": error_of(failure, options)}
    return replace(failure, body=_json([error] if failure.as_list else error))


def _json(value: Any) -> bytes:
    return msgspec.json.encode(value)
