"""The interactions of LocalGemini: their wire, their refusals, and what goes wrong with them when a test says so."""

from __future__ import annotations

import contextlib
import gzip
import json
import threading
import time
from http.client import HTTPConnection, HTTPException
from typing import TYPE_CHECKING, Any

import pytest

from gemini_streams.testing import Failure, Interaction, LocalGemini, Raw, Reply
from kit.interactions import BASE, HEADERS, begin, call, create, events, resource, stream

if TYPE_CHECKING:
    from collections.abc import Mapping

COUNT = "one two three four"
"""Eight events: created, status_update, the start with a word, three deltas, stop, completed; then `[DONE]`."""
SIZE = 8


def told(body: bytes) -> str:
    """Return an error's message."""
    return str(json.loads(body)["error"]["message"])


def text_of(found: list[dict[str, Any]]) -> str:
    starts = [c["text"] for e in found for c in e.get("step", {}).get("content", [])]
    return "".join(starts + [e["delta"]["text"] for e in found if "delta" in e])


def wait_for(gemini: LocalGemini, name: str, status: str) -> dict[str, Any]:
    """Wait until the interaction has this status; return its resource."""
    deadline = time.monotonic() + 20
    while (found := resource(gemini, name))["status"] != status:
        assert time.monotonic() < deadline, found
        time.sleep(0.01)
    return found


# -- the wire


def test_a_stream_as_it_stands_on_the_wire(gemini: LocalGemini) -> None:
    gemini.on("why", Reply("Because air", thoughts="weigh", interaction=Interaction(ids="first")))
    status, body = create(gemini, "why", stream=True)
    blocks = body.decode().split("\r\n\r\n")
    assert status == 200
    assert blocks[-2:] == ["event: done\r\ndata: [DONE]", ""]
    found = events(body)
    assert [block.split("\r\n")[0] for block in blocks[:-2]] == [f"event: {e['event_type']}" for e in found]
    created, update, start, delta, stop, second, more, stopped, completed = found
    name = created["interaction"]["id"]
    assert created["interaction"]["status"] == "in_progress"
    assert created["interaction"]["object"] == "interaction"
    assert created["interaction"]["model"] == "gemini-test"
    assert update == {
        "event_type": "interaction.status_update",
        "interaction_id": name,
        "status": "in_progress",
    }
    assert start.pop("event_id").startswith("v1_")
    assert start == {"event_type": "step.start", "index": 0, "step": {"type": "thought"}}
    assert delta["delta"] == {"type": "thought_summary", "content": {"type": "text", "text": "weigh"}}
    assert stop == {"event_type": "step.stop", "index": 0}
    assert second["step"] == {"type": "model_output", "content": [{"type": "text", "text": "Because"}]}
    assert more["delta"] == {"type": "text", "text": " air"}
    assert stopped["index"] == 1
    usage = {"total_input_tokens": 1, "total_output_tokens": 3, "total_tokens": 4}
    assert completed["interaction"]["status"] == "completed"
    assert completed["interaction"]["usage"] == usage
    assert "steps" not in completed["interaction"]
    gemini.requests[0].wait_closed()
    assert gemini.requests[0].usage == usage


@pytest.mark.parametrize(
    "base", ["/v1/interactions", "/v1beta/interactions", "/v1beta1/projects/p/locations/l/interactions"]
)
def test_every_version_of_the_path(gemini: LocalGemini, base: str) -> None:
    gemini.on("why", Reply("Because."))
    status, body = call(gemini, "POST", "", {"model": "m", "input": "why"}, base=base)
    assert status == 200
    name = json.loads(body)["id"]
    assert call(gemini, "GET", f"/{name}", base=base)[0] == 200
    assert call(gemini, "DELETE", f"/{name}", base=base) == (200, b"{}")
    assert call(gemini, "GET", f"/{name}", base=base)[0] == 404


def test_a_get_shows_the_users_input_and_a_post_does_not(gemini: LocalGemini) -> None:
    gemini.on("why", Reply("Because."))
    body = json.loads(create(gemini, [{"type": "text", "text": "why"}])[1])
    assert [step["type"] for step in body["steps"]] == ["model_output"]
    gemini.requests[0].wait_closed()
    assert gemini.requests[0].usage == body["usage"]
    found = resource(gemini, body["id"])
    assert found["steps"][0] == {"type": "user_input", "content": [{"type": "text", "text": "why"}]}
    assert "input" not in found
    assert resource(gemini, body["id"], "?include_input=true")["input"] == [{"type": "text", "text": "why"}]


REFUSED: list[tuple[Mapping[str, Any], str]] = [
    ({"input": "x"}, "model and agent"),
    ({"model": "m", "agent": "a", "input": "x"}, "model and agent"),
    ({"model": "m"}, "input"),
    ({"model": "m", "input": "x", "contents": []}, 'Unknown name "contents"'),
    ({"agent": "a", "input": "x", "generation_config": {"seed": 1}}, "generation_config"),
    ({"agent": "deep-research-pro", "input": "x"}, "background=true"),
    ({"model": "m", "input": "x", "background": True, "store": False}, "store=true"),
    ({"model": "m", "input": "x", "previous_interaction_id": "v1_L1", "store": False}, "store=true"),
]


@pytest.mark.parametrize(("body", "said"), REFUSED)
def test_what_the_api_refuses(gemini: LocalGemini, body: Mapping[str, Any], said: str) -> None:
    status, answer = call(gemini, "POST", "", body)
    assert status == 400
    assert said in told(answer)


def test_ids_that_nothing_knows_masks_and_chains_to_what_is_under_way_are_refused(
    gemini: LocalGemini,
) -> None:
    gemini.on("hold", Reply("one two", hold_after=3))
    name = begin(gemini, "hold")
    assert stream(gemini, name, "v1_wrong")[0] == 400
    assert call(gemini, "GET", f"/{name}?fields=steps")[0] == 400
    assert create(gemini, "x", previous_interaction_id=name)[0] == 400
    assert create(gemini, "x", previous_interaction_id="v1_L99")[0] == 404
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/cancel")):
        assert call(gemini, method, f"/v1_L99{path}")[0] == 404
    gemini.gate("hold").open()
    wait_for(gemini, name, "completed")
    assert call(gemini, "POST", f"/{name}/cancel", {})[0] == 400


def test_the_key_is_asked_for_and_masked(gemini: LocalGemini) -> None:
    with contextlib.closing(HTTPConnection("127.0.0.1", gemini.port, timeout=20)) as connection:
        connection.request("GET", f"{BASE}/v1_L1", headers={"x-goog-api-key": "wrong-key-of-mine"})
        assert connection.getresponse().status == 400
    create(gemini, "my local-key is here")
    stream(gemini, "local-key", "local-key")
    assert "local-key" not in repr([vars(record) for record in gemini.requests])
    assert "wrong-key-of-mine" not in repr([vars(record) for record in gemini.requests])


def test_without_store_there_is_no_id_and_no_second_look(gemini: LocalGemini) -> None:
    gemini.on("why", Reply(COUNT, hold_after=4))
    gemini.gate("why").open()
    found = events(create(gemini, "why", store=False, stream=True)[1])
    assert found[0]["interaction"]["id"] == ""
    assert not any("event_id" in event for event in found)
    assert gemini.requests[-1].interaction_id is None
    assert json.loads(create(gemini, "why", store=False)[1])["id"] == ""


# -- runs


def test_a_background_run_goes_on_while_nothing_reads_it(gemini: LocalGemini) -> None:
    gemini.on("deep", Reply(COUNT, hold_after=5))
    name = begin(gemini, "deep")
    assert gemini.gate("deep").reached()
    found = resource(gemini, name)
    assert (found["status"], found["steps"][1]["content"][0]["text"]) == ("in_progress", "one two three")
    gemini.gate("deep").open()
    assert wait_for(gemini, name, "completed")["steps"][1]["content"][0]["text"] == COUNT


def test_a_foreground_run_goes_on_behind_its_reader(gemini: LocalGemini) -> None:
    gemini.on("why", Reply(COUNT, hold_after=4))
    with contextlib.closing(HTTPConnection("127.0.0.1", gemini.port, timeout=20)) as connection:
        body = json.dumps({"model": "m", "input": "why", "stream": True})
        connection.request("POST", BASE, body, HEADERS)
        with connection.getresponse():
            assert gemini.gate("why").reached()
    assert gemini.wait_request().wait_closed()
    gemini.gate("why").open()
    name = str(gemini.requests[0].interaction_id)
    wait_for(gemini, name, "completed")
    assert text_of(events(stream(gemini, name)[1])) == COUNT


def test_a_stream_of_a_running_interaction_gets_what_comes(gemini: LocalGemini) -> None:
    gemini.on("deep", Reply(COUNT, hold_after=4))
    name = begin(gemini, "deep")
    assert gemini.gate("deep").reached()
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(stream(gemini, name)[1]))
    reader.start()
    record = gemini.wait_request(where=lambda record: record.action == "stream")
    gemini.gate("deep").open()
    reader.join(20)
    record.wait_closed()
    assert text_of(events(read[0])) == COUNT
    assert record.events_sent == SIZE + 1


def test_a_deleted_run_is_unknown_and_its_stream_goes_on(gemini: LocalGemini) -> None:
    gemini.on("deep", Reply(COUNT, hold_after=4))
    name = begin(gemini, "deep")
    with contextlib.closing(HTTPConnection("127.0.0.1", gemini.port, timeout=20)) as connection:
        connection.request("GET", f"{BASE}/{name}?stream=true", headers=HEADERS)
        with connection.getresponse() as response:
            assert call(gemini, "DELETE", f"/{name}")[0] == 200
            assert stream(gemini, name)[0] == 404
            gemini.gate("deep").open()
            assert text_of(events(response.read())) == COUNT


def test_close_ends_runs_and_streams(gemini: LocalGemini) -> None:
    gemini.on("deep", Reply(COUNT, hold_after=4))
    name = begin(gemini, "deep")
    with contextlib.closing(HTTPConnection("127.0.0.1", gemini.port, timeout=20)) as connection:
        connection.request("GET", f"{BASE}/{name}?stream=true", headers=HEADERS)
        with connection.getresponse() as response:
            assert gemini.gate("deep").reached()
            gemini.close()
            with contextlib.suppress(OSError, HTTPException):
                response.read()
    assert gemini.requests[-1].ended == "server"


def test_an_error_of_the_tests_own_callable_is_raised_by_close() -> None:
    gemini = LocalGemini(interaction=Interaction(ids=lambda event: bool(event["nothing"])))
    gemini.start()
    assert create(gemini, "why", stream=True)[0] == 200
    with pytest.raises(RuntimeError, match="script failed"):
        gemini.close()


# -- what goes wrong


def run(gemini: LocalGemini, reply: Reply) -> str:
    """Begin this reply in the background, and wait until the run is over or at its gate."""
    gemini.on("why", reply)
    return begin(gemini, "why")


@pytest.mark.parametrize(
    ("ids", "having"),
    [
        ("all", [0, 1, 2, 3, 4, 5, 6, 7]),
        ("first", [2]),
        ("none", []),
        (3, [2, 5]),
        (lambda event: event["event_type"] == "step.delta", [3, 4, 5]),
    ],
)
def test_the_events_that_have_ids(gemini: LocalGemini, ids: Any, having: list[int]) -> None:
    name = run(gemini, Reply(COUNT, interaction=Interaction(ids=ids)))
    found = events(stream(gemini, name)[1])
    assert [number for number, event in enumerate(found) if "event_id" in event] == having
    assert len({event["event_id"] for event in found if "event_id" in event}) == len(having)


def test_deltas_are_merged_or_split_on_replay(gemini: LocalGemini) -> None:
    at_two = lambda event: event.get("delta", {}).get("text") == " two"  # noqa: E731
    name = run(gemini, Reply(COUNT, interaction=Interaction(replay="merged", ids=at_two)))
    live, again = (events(stream(gemini, name)[1]) for _ in range(2))
    assert len(live) == SIZE
    assert [e["step"]["content"][0]["text"] for e in again if "step" in e] == ["one two"]
    assert [e["delta"]["text"] for e in again if "delta" in e] == [" three four"]
    assert "event_id" in again[2]
    name = run(gemini, Reply(COUNT, interaction=Interaction(replay=2)))
    live, again = (events(stream(gemini, name)[1]) for _ in range(2))
    assert [e["delta"]["text"] for e in again if "delta" in e][:4] == ["e", " t", "wo", " t"]
    assert [e["event_id"] for e in again if "event_id" in e] == [e["event_id"] for e in live]


def test_the_ten_minute_cut_is_a_bare_array_behind_which_the_body_ends_cleanly(gemini: LocalGemini) -> None:
    name = run(gemini, Reply(COUNT, interaction=Interaction(cuts=[3, 0])))
    for sent in (3, 0):
        status, body = stream(gemini, name)
        assert (status, len(events(body))) == (200, sent)
        bare = body[body.index(b"[{\r\n") :]
        assert json.loads(bare)[0]["error"]["code"] == 503
        assert bare.count(b"\r\n") > 3
    assert len(events(stream(gemini, name)[1])) == SIZE


def test_a_cut_at_the_same_place_and_one_by_time(gemini: LocalGemini) -> None:
    name = run(gemini, Reply(COUNT, interaction=Interaction(cut_at=4, cut_by="clean")))
    for _ in range(3):
        found = events(stream(gemini, name)[1])
        assert len(found) == 4
    assert events(stream(gemini, name, found[1]["event_id"])[1]) == found[2:]
    assert events(stream(gemini, name, found[3]["event_id"])[1]) == []
    assert resource(gemini, name)["status"] == "completed"
    gemini.on("timed", Reply(COUNT, hold_after=4, interaction=Interaction(cut_seconds=0.2)))
    _, body = create(gemini, "timed", stream=True)
    assert len(events(body)) <= 4
    assert b"503" in body


def test_a_resume_goes_silent(gemini: LocalGemini) -> None:
    name = run(gemini, Reply(COUNT, interaction=Interaction(cuts=[3], resume_silent_after=2)))
    last = events(stream(gemini, name)[1])[-1]["event_id"]
    with contextlib.closing(HTTPConnection("127.0.0.1", gemini.port, timeout=20)) as connection:
        connection.request("GET", f"{BASE}/{name}?stream=true&last_event_id={last}", headers=HEADERS)
        with connection.getresponse() as response:
            read = b""
            while read.count(b"\r\n\r\n") < 2:
                read += response.read1()
            assert [event["delta"]["text"] for event in events(read)] == [" two", " three"]
            record = gemini.requests[-1]
            assert (record.last_event_id, record.closed_at) == (last, None)
            assert resource(gemini, name)["status"] == "completed"
    assert record.wait_closed()
    assert record.client_closed


def test_a_zombie_is_in_progress_and_has_no_steps(gemini: LocalGemini) -> None:
    name = run(gemini, Reply(COUNT, interaction=Interaction(zombie_after=4, cuts=[4])))
    assert len(events(stream(gemini, name)[1])) == 4
    found = resource(gemini, name)
    assert (found["status"], found["steps"]) == ("in_progress", [])
    assert call(gemini, "POST", f"/{name}/cancel")[0] == 200
    assert resource(gemini, name)["status"] == "cancelled"


def test_forgotten_and_not_found_at_first(gemini: LocalGemini) -> None:
    name = run(gemini, Reply(COUNT, interaction=Interaction(cuts=[3], forget_after=1)))
    last = events(stream(gemini, name)[1])[-1]["event_id"]
    assert stream(gemini, name, last)[0] == 404
    assert call(gemini, "GET", f"/{name}")[0] == 404
    gets = [Failure(404), None, Failure(503), Raw(b"", close="reset")]
    name = run(gemini, Reply(COUNT, interaction=Interaction(gets=gets)))
    assert [stream(gemini, name)[0] for _ in range(3)] == [404, 200, 503]
    with pytest.raises(ConnectionError):
        stream(gemini, name)
    assert len(events(stream(gemini, name)[1])) == SIZE


def test_usage_comes_late(gemini: LocalGemini) -> None:
    name = run(gemini, Reply(COUNT, interaction=Interaction(usage_late=0.3)))
    assert "usage" not in events(stream(gemini, name)[1])[-1]["interaction"]
    deadline = time.monotonic() + 20
    while "usage" not in resource(gemini, name):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    name = run(gemini, Reply(COUNT, interaction=Interaction(usage_late=600)))
    wait_for(gemini, name, "completed")
    assert "usage" not in resource(gemini, name)


def test_error_events_and_string_codes() -> None:
    late = Failure(504, "too late")
    with LocalGemini(interaction=Interaction(string_codes=True)) as gemini:
        gemini.on("why", Reply(COUNT, error_after=(3, late)))
        gemini.on("bare", Reply(COUNT, error_after=(3, late), error_bare=True))
        gemini.on("busy", Failure(429))
        name = begin(gemini, "why")
        found = events(stream(gemini, name)[1])
        assert found[3] == {
            "event_type": "error",
            "error": {"code": "deadline_exceeded", "message": "too late"},
        }
        assert len(found) == 4
        assert len(events(stream(gemini, name)[1])) == SIZE
        assert b'"deadline_exceeded"' in create(gemini, "bare", stream=True)[1]
        status, body = create(gemini, "busy")
        assert (status, json.loads(body)["error"]["code"]) == (429, "resource_exhausted")
        assert json.loads(call(gemini, "GET", "/v1_L99")[1])["error"]["code"] == "not_found"


def test_background_is_refused_and_the_same_prompt_without_it_is_not(gemini: LocalGemini) -> None:
    gemini.on("why", Reply(COUNT, interaction=Interaction(no_background=True)))
    status, body = create(gemini, "why", background=True)
    assert status == 400
    assert "background=false" in told(body)
    assert create(gemini, "why")[0] == 200


def test_a_post_whose_answer_is_lost_has_been_carried_out(gemini: LocalGemini) -> None:
    for more in ({"background": True}, {"stream": True}):
        gemini.on("why", Reply(COUNT, interaction=Interaction(post_lost=True)), Reply(COUNT))
        with pytest.raises(ConnectionError):
            create(gemini, "why", **more)
        record = gemini.requests[-1]
        record.wait_closed()
        assert record.ended == "reset"
        wait_for(gemini, str(record.interaction_id), "completed")
    assert create(gemini, "why")[0] == 200


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (Reply("x"), "completed"),
        (Reply("x", finish_reason="MAX_TOKENS"), "incomplete"),
        (Reply("x", finish_reason="SAFETY"), "failed"),
        (Reply("x", finish_reason="CONTINUATION", tokens={0: "dG9rZW4="}), "requires_continuation"),
        (Reply("x", function_calls=[{"name": "f"}]), "requires_action"),
        *(
            (Reply("x", interaction=Interaction(status=name)), name)
            for name in ("budget_exceeded", "cancelled", "odd")
        ),
    ],
)
def test_it_ends_by_each_status(gemini: LocalGemini, reply: Reply, status: str) -> None:
    name = run(gemini, reply)
    last = events(stream(gemini, name)[1])[-1]
    assert (last["event_type"], last["interaction"]["status"]) == ("interaction.completed", status)
    found = resource(gemini, name)
    assert found["status"] == status
    assert found.get("continuation_token") == last["interaction"].get("continuation_token")
    assert ("continuation_token" in found) == (status == "requires_continuation")


def test_an_end_without_completed(gemini: LocalGemini) -> None:
    name = run(gemini, Reply("x", finish_reason=None))
    _, body = stream(gemini, name)
    assert events(body)[-1]["event_type"] == "step.stop"
    assert b"DONE" not in body
    assert resource(gemini, name)["status"] == "in_progress"


def test_a_cancel_lags(gemini: LocalGemini) -> None:
    name = run(gemini, Reply(COUNT, hold_after=4, interaction=Interaction(cancel_lag=0.1)))
    status, body = call(gemini, "POST", f"/{name}/cancel")
    assert (status, json.loads(body)["status"]) == (200, "in_progress")
    wait_for(gemini, name, "cancelled")


def test_events_of_the_api_itself_are_sent_as_they_stand(gemini: LocalGemini) -> None:
    odd: dict[str, Any] = {"event_type": "weather.changed", "wind": 3}
    typeless: dict[str, Any] = {"event_type": "step.delta", "index": 0, "delta": {"text": "late"}}
    plain = Interaction(event_lines=False, done=False, text_in_start=False, ids="none")
    gemini.on("odd", Reply(["one", odd, typeless], interaction=plain))
    _, body = create(gemini, "odd", stream=True)
    assert b"event:" not in body
    assert b"DONE" not in body
    found = events(body)
    assert [e["event_type"] for e in found[2:6]] == [
        "step.start",
        "step.delta",
        "step.stop",
        "weather.changed",
    ]
    assert found[5] == odd
    assert found[6] == typeless


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
def test_framings_and_gzip(gemini: LocalGemini, framing: Any) -> None:
    gemini.on("why", Reply(COUNT, framing=framing, gzip=True, segment=3))
    assert text_of(events(gzip.decompress(create(gemini, "why", stream=True)[1]))) == COUNT
