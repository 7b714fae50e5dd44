"""Real answers of Google's, in every cut a server can send them in, received as their manifest says."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from conftest import StartManager
from gemini_streams import (
    APIError,
    RetryPolicy,
    StreamComplete,
    StreamError,
    StreamTruncatedError,
)
from gemini_streams.testing import LocalGemini, every_cut
from kit.helpers import BatchProbe, events_of, last_of, text_of
from pykka_supervisor.testing import Probe, TestClock

RECORDED = Path(__file__).parents[2].parent / "shared" / "recorded"
MANIFEST = RECORDED / "manifest.json"
FILES: list[dict[str, Any]] = json.loads(MANIFEST.read_text())["files"] if MANIFEST.exists() else []
CUTS = sorted(every_cut(b"x"))

if not FILES:
    pytest.skip(f"the recorded streams are not there: {MANIFEST.name}", allow_module_level=True)

TRUNCATED = "StreamTruncated"


def meant(expected: dict[str, Any], last: StreamComplete | StreamError) -> str:
    """Say a last message in the manifest's words."""
    if isinstance(last, StreamError):
        if isinstance(last.error, APIError):
            return f"HTTP {last.error.code} {last.error.status}"
        assert type(last.error) is StreamTruncatedError
        return str(expected["reason"]) if expected["reason"].startswith(TRUNCATED) else "truncated"
    if last.block_reason is not None:
        return f"block_reason {last.block_reason}"
    return f"{'' if last.finish_reason == 'STOP' else 'finish_reason '}{last.finish_reason}"


@pytest.mark.parametrize("file", FILES, ids=lambda f: f["name"].removesuffix(".txt"))
def test_a_recorded_stream_is_received_as_its_manifest_says(
    gemini: LocalGemini, manager: StartManager, probe: Probe, batch_probe: BatchProbe, file: dict[str, Any]
) -> None:
    body = (RECORDED / file["name"]).read_bytes()
    assert len(body) == file["bytes"]
    expected = file["expect"]
    # A truncated answer is asked for again (docs/errors.md); here it is looked at once.
    truncated = expected["reason"].startswith(TRUNCATED)
    ref = manager(retry=RetryPolicy(attempts=1) if truncated else RetryPolicy())
    for number, (cut, answer) in enumerate(every_cut(body, status=file["http_status"]).items()):
        prompt = f"cut {number}."
        gemini.on(prompt, answer)
        stream_id = ref.start_stream(prompt, subscriber=[probe.ref, batch_probe.ref])
        for subscriber in (probe, batch_probe):
            last = last_of(subscriber, stream_id)
            assert type(last).__name__ == expected["ending"], cut
            assert meant(expected, last) == expected["reason"], cut
            assert last.attempts == 1, cut
            assert last.events_count == expected["stream_events"], cut
            events = events_of(subscriber, stream_id)
            assert len(events) == expected["stream_events"] == file["events_lenient"], cut
            text = text_of(subscriber, stream_id)
            assert hashlib.sha256(text.encode()).hexdigest() == file["text_sha256"], cut
            assert len(text) == file["text_chars"]
            calls = [call for event in events for call in event.function_calls]
            assert [call["name"] for call in calls] == file["function_calls"], cut
            assert sum(bool(event.thoughts) for event in events) == file["thought_parts"], cut
            finished = [event.finish_reason for event in events if event.finish_reason is not None]
            assert finished == file["finish_reasons"], cut
            if isinstance(last, StreamComplete):
                assert last.finish_reason == file["final_finish_reason"]
                assert [last.block_reason] == (file["block_reasons"] or [None])
                assert last.ok is (last.finish_reason == "STOP")
            if "error" in file:
                assert last.error.message == file["error"]["message"]
    assert len(gemini.requests) == len(CUTS)


def test_all_of_them_are_here() -> None:
    assert len(FILES) == 20
    assert {file["name"] for file in FILES} == {path.name for path in RECORDED.glob("*.txt")}


@pytest.mark.parametrize(
    "file", [f for f in FILES if f["expect"]["reason"].startswith(TRUNCATED)], ids=lambda f: f["name"]
)
def test_a_truncated_one_is_asked_for_again(
    gemini: LocalGemini, manager: StartManager, probe: Probe, clock: TestClock, file: dict[str, Any]
) -> None:
    """The manifest says `retry: false` of these, docs/errors.md says yes: the document counts."""
    gemini.on("again", every_cut((RECORDED / file["name"]).read_bytes())["all at once"])
    ref = manager(retry=RetryPolicy(attempts=2, initial_delay=3, jitter=0), clock=clock)
    ref.start_stream("again", subscriber=probe.ref)
    probe.wait(2)
    clock.advance(3)
    last = last_of(probe)
    assert (type(last.error), last.attempts, len(gemini.requests)) == (StreamTruncatedError, 2, 2)
