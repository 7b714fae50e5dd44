"""What a case must have looked like: the judge of the fuzz run.

Nothing here asks the code under test what is right. The judge knows what the server sent (`answer`), reads from the
marks whose bytes each subscriber got, and holds every history against the five guarantees (`check_history`).
"""

from __future__ import annotations

import base64
import functools
import html
import logging
import pickle
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote

from pykka import ActorDeadError

from fuzz.answer import LATE
from fuzz.answer import Answer as Said
from fuzz.drive import Evidence
from fuzz.marks import BEHIND, Mark, marks_in, strings_in
from fuzz.plan import ITERATORS, key_of, password_of
from fuzz.readers import LAST, Reader
from gemini_streams import (
    Answer,
    APIError,
    DeadlineExceededError,
    FirstEventTimeoutError,
    GeminiStreamsError,
    IdleTimeoutError,
    SlowSubscriberError,
    StreamComplete,
    StreamCrashedError,
    StreamError,
    StreamEvent,
    StreamRestarting,
    UnexpectedResponseError,
)
from gemini_streams.testing import check_history

__all__ = ["MOST_MEMORY", "judge", "reveals"]

MOST_MEMORY = 96 << 20
"""Bytes by which a case may grow the process."""
_LONGEST_ERROR = 4000
"""Characters of an error's text."""
_STALL = 0.15
"""Seconds that the machine may have stalled before time-outs are put down to it."""


def judge(evidence: Evidence) -> list[str]:
    """Return what was wrong in a case, a line each; empty where nothing was."""
    found = list(evidence.wrong)
    if evidence.grown > MOST_MEMORY:
        found.append(f"memory grew by {evidence.grown >> 20} MiB")
    found += _revealed(evidence)
    found += _logged(evidence)
    for reader in evidence.readers:
        who = f"stream {reader.stream}, {reader.plan.kind} subscriber: "
        found += [who + text for text in _judge_reader(evidence, reader)]
    return found


def _judge_reader(evidence: Evidence, reader: Reader) -> Iterator[str]:
    messages = reader.record.messages
    must_end = reader.due and reader.alive
    if reader.plan.kind in ITERATORS and reader.raised is not None and not messages:
        must_end = False  # its start was refused
    for violation in check_history(
        messages,
        after=reader.after,
        first=reader.first,
        ended=[str(reader.stream)] if must_end else False,
    ):
        yield f"{violation} {_context(messages, violation.index)}"
    yield from _whose_bytes(evidence, reader)
    yield from _which_end(evidence, reader)
    yield from _folded(reader)
    raised = reader.raised
    if raised is not None and not isinstance(raised, GeminiStreamsError | ActorDeadError):
        yield f"iterating raised {type(raised).__name__}: {str(raised)[:200]}"


def _folded(reader: Reader) -> Iterator[str]:
    """All that an event and an `Answer` have can be read, and the answer's text is that of the events that stand."""
    messages = reader.record.messages
    answer = Answer()
    try:
        for message in messages:
            answer.add(message)
            if isinstance(message, StreamEvent):
                _looked_at(message, ("thoughts", "function_calls", "finish_reason", "usage", "position"))
        _looked_at(answer, ("thoughts", "function_calls", "usage", "content", "ok", "error"))
        text = "".join(event.text for event in _standing(messages))
    except Exception as bug:
        yield f"reading what was received raised {type(bug).__name__}: {str(bug)[:200]}"
        return
    if answer.text != text and reader.first == 0 and reader.after is None:
        yield f"the answer's text has {len(answer.text)} characters, its events' {len(text)}"
    if bool(messages) and answer.done is not isinstance(messages[-1], LAST):
        yield f"the answer says that it is done: {answer.done}, behind {_short(messages[-1])}"


def _looked_at(item: object, names: tuple[str, ...]) -> None:
    for name in names:
        getattr(item, name, None)


def _whose_bytes(evidence: Evidence, reader: Reader) -> Iterator[str]:
    """Every mark that a subscriber sees is of its own stream, in its place, in the order of the requests."""
    case = evidence.case
    plan = case.streams[reader.stream]
    answer_to = functools.partial(evidence.answer, reader.stream)
    latest = -1
    places: dict[tuple[int, int], int] = {}
    attempt_of: dict[int, int] = {}
    for message in reader.record.messages:
        for mark in _marks(message):
            if reader.tenant is not None:
                yield f"another tenant, with the same id and contents, received {mark} in {_short(message)}"
                continue
            if mark.case != case.number or mark.stream != reader.stream:
                late = mark.event == LATE and mark.case == case.number and mark.tenant == plan.tenant
                if not late:  # what comes in the moment of a request cannot be told from its answer
                    whose = "another tenant" if mark.tenant != plan.tenant else "another stream"
                    yield f"received bytes meant for {whose}: {mark} in {_short(message)}"
                continue
            answer = answer_to(mark.request)
            if mark.event == LATE:
                continue
            if mark.event == BEHIND:
                if answer.framed:
                    yield f"took what stood behind the answer to request {mark.request}: {_short(message)}"
                continue
        if isinstance(message, StreamEvent):
            # By the event's own mark: a call that came in pieces may have begun in the answer before.
            for mark in marks_in(str(message.data.get("responseId", "")))[:1]:
                if mark.request < latest:
                    yield f"went back from request {latest} to {mark.request}: {_short(message)}"
                latest = max(latest, mark.request)
            yield from _its_place(message, answer_to, places, attempt_of)


def _its_place(
    event: StreamEvent,
    answer: Callable[[int], Said],
    places: dict[tuple[int, int], int],
    attempt_of: dict[int, int],
) -> Iterator[str]:
    """Within a request, sequence numbers and the server's own count go on together."""
    found = marks_in(str(event.data.get("responseId", "")))
    if not found or found[0].event in (BEHIND, LATE):
        return
    mark = found[0]
    if not answer(mark.request).intact:
        return
    offset = event.sequence - mark.event
    place = (event.attempt, mark.request)
    if places.setdefault(place, offset) != offset:
        yield (
            f"event {event.sequence} of attempt {event.attempt} is the server's {mark.event} in request"
            f" {mark.request}: {offset - places[place]:+} beside what came before it"
        )
        places[place] = offset
    # A replay may give an event under the attempt it came with, and a live one under a later: only rising is right.
    before = attempt_of.setdefault(mark.request, event.attempt)
    if before > event.attempt:
        yield f"request {mark.request} was told under attempt {before} and then under {event.attempt}"


def _which_end(evidence: Evidence, reader: Reader) -> Iterator[str]:
    """The end is what the server's answers make it."""
    case, messages = evidence.case, reader.record.messages
    if not messages or reader.stream not in evidence.started or reader.tenant is not None:
        return
    last = messages[-1]
    plan = case.streams[reader.stream]
    if any(mark.event == LATE for message in messages for mark in _marks(message)):
        return  # it was sent in the moment of a request of the same tenant
    for message in messages:
        error = getattr(message, "error", None)
        if isinstance(error, StreamCrashedError) and not _killed(evidence, reader.stream):
            yield f"the stream's actor crashed: {error}"
    if isinstance(last, StreamComplete):
        played = [one.request for one in evidence.played if one.stream == reader.stream]
        standing = _standing(messages)
        if played:
            final = evidence.answer(reader.stream, max(played))
            if not final.can_complete or (final.hops and final.intact):
                yield f"told that the answer is whole, and it is not: {final.recipe}"
            whole_view = reader.first == 0 and reader.after is None and plan.overflow == "pause"
            if final.sound and whole_view:
                yield from _all_there(standing, max(played), final)
    elif isinstance(last, StreamError) and plan.taste.sound and not case.disturbed(reader.stream):
        error = last.error
        excused = isinstance(error, SlowSubscriberError | DeadlineExceededError) and (
            plan.overflow == "disconnect" or _slow_readers(evidence, reader.stream) or _stalled(evidence)
        )
        timed = isinstance(error, FirstEventTimeoutError | IdleTimeoutError | DeadlineExceededError)
        queued = (case.queues or plan.deadline < 1) and isinstance(error, DeadlineExceededError)
        rough = case.rough and (
            timed or isinstance(error, ConnectionError | UnexpectedResponseError | APIError)
        )
        if not excused and not queued and not rough and not (timed and _stalled(evidence)):
            yield f"failed though all answers were sound: {type(error).__name__}: {error}"
    elif isinstance(last, StreamError) and isinstance(last.error, APIError) and not plan.taste.sound:
        text = str(last.error)
        if len(text) > _LONGEST_ERROR:
            yield f"an error of {len(text)} characters: {text[:100]}"


def _all_there(standing: list[StreamEvent], request: int, answer: Said) -> Iterator[str]:
    """Of the last answer every event has come."""
    numbers = [
        mark.event
        for event in standing
        for mark in marks_in(str(event.data.get("responseId", "")))[:1]
        if mark.request == request
    ]
    if numbers != list(range(answer.events)):
        yield f"told that the answer is whole; of its {answer.events} events came {numbers}"


def _standing(messages: list[Any]) -> list[StreamEvent]:
    standing: dict[int, StreamEvent] = {}
    for message in messages:
        if isinstance(message, StreamEvent):
            standing[message.sequence] = message
        elif isinstance(message, StreamRestarting):
            standing = {at: event for at, event in standing.items() if at < message.resume_at}
    return [standing[at] for at in sorted(standing)]


def _killed(evidence: Evidence, stream: int) -> bool:
    return any(deed.what == "kill" and deed.stream == stream for deed in evidence.case.deeds)


def _slow_readers(evidence: Evidence, stream: int) -> bool:
    return any(reader.plan.kind in ("slow", "dies") for reader in evidence.readers if reader.stream == stream)


def _stalled(evidence: Evidence) -> bool:
    return evidence.stalled > _STALL


# -- secrets ---------------------------------------------------------------------------------------------------------


def reveals(text: str, key: str) -> bool:
    """Whether a text shows a key, in any of the usual codings."""
    plain = [text, html.unescape(text), unquote(text), unquote(html.unescape(text))]
    plain.append(re.sub(r"\\+u([0-9a-fA-F]{4})", lambda m: chr(int(m[1], 16)), text))
    if any(key in one for one in plain):
        return True
    for offset in range(3):
        packed = base64.b64encode(b"x" * offset + key.encode()).decode()
        # The characters at either end depend on what stands beside the key.
        if packed[4 if offset else 0 : -4] in text:
            return True
    return False


def _revealed(evidence: Evidence) -> Iterator[str]:
    keys = [key_of(evidence.case.number, tenant) for tenant in range(evidence.case.tenants)]
    keys.append(password_of(evidence.case.number))
    for line in [*(line for _, line in evidence.log), *evidence.shown]:
        if any(reveals(line, key) for key in keys):
            yield f"a log line, or a StreamInfo, shows a key: {line[:300]}"
    seen: set[str] = set()
    for reader in evidence.readers:
        for message in reader.record.messages:
            error = getattr(message, "error", None)
            if error is None:
                continue
            texts = [*_texts(error), repr(message)]
            text = " | ".join(texts)
            if text not in seen and any(reveals(text, key) for key in keys):
                seen.add(text)
                yield f"stream {reader.stream}: an error shows a key: {text[:300]}"


def _texts(error: BaseException) -> Iterator[str]:
    """All that an error says, in whatever way it is looked at."""
    one: BaseException | None = error
    while one is not None:
        yield f"{one} {one!r} {vars(one)}"
        one = one.__cause__ or one.__context__
    yield pickle.dumps(error).decode("latin-1")


def _logged(evidence: Evidence) -> Iterator[str]:
    """A line of the level ERROR is a bug of ours, but where the case itself kills."""
    if any(deed.what in ("kill", "kill manager") for deed in evidence.case.deeds):
        return
    for level, line in evidence.log:
        own = line.startswith(("gemini_streams", "pykka_supervisor"))
        if level >= logging.ERROR and own and "_DiesError" not in line:
            yield f"logged: {line[:300]}"


# -- words -----------------------------------------------------------------------------------------------------------


def _marks(message: Any) -> list[Mark]:
    if isinstance(message, StreamEvent):
        return [mark for text in strings_in(message.data) for mark in marks_in(text)]
    error = getattr(message, "error", None)
    if error is not None:
        return marks_in(f"{error} {vars(error)}")
    usage = getattr(message, "usage", None)
    return [] if usage is None else [mark for text in strings_in(usage) for mark in marks_in(text)]


def _short(message: Any) -> str:
    match message:
        case StreamEvent():
            return f"event {message.attempt}/{message.sequence}"
        case StreamRestarting():
            error = message.error
            return f"restart {message.attempt} at {message.resume_at} after {type(error).__name__}: {str(error)[:80]}"
        case StreamError():
            return f"StreamError({type(message.error).__name__}: {str(message.error)[:80]})"
    return type(message).__name__


def _context(messages: list[Any], index: int) -> str:
    defaults: dict[str, list[str]] = defaultdict(list)
    defaults["near"] = [_short(message) for message in messages[max(0, index - 4) : index + 2]]
    return str(defaults["near"])
