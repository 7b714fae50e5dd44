"""Credentials are asked for their headers at each send."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from conftest import StartManager
from gemini_streams import RetryPolicy, StreamComplete
from gemini_streams.api.credentials import Always, ApiKey
from gemini_streams.api.endpoint import Target
from gemini_streams.api.secret import Secret
from gemini_streams.testing import Failure, LocalGemini, Reply
from kit.helpers import last_of
from pykka_supervisor.testing import Probe


class Rotating(Always):
    """Credentials of which each request gets the next."""

    fingerprint = "the one tenant"

    def __init__(self, keys: list[str]) -> None:
        self.left = keys

    def headers(self) -> dict[str, Secret]:
        return {"x-goog-api-key": Secret(self.left.pop(0))}

    def secrets(self) -> Iterable[str]:
        return ()


class Somewhere:
    """An endpoint with credentials of its own."""

    def __init__(self, url: str, credentials: Rotating) -> None:
        self._target = Target(url, credentials)

    def resolve(self, environ: Mapping[str, str] | None = None) -> Target:
        return self._target


def test_each_request_carries_what_the_credentials_say_then(
    gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    gemini.keys = ("first", "second", "third")
    gemini.on("why", Failure(503), Reply("Because."), Reply("Because."))
    credentials = Rotating(["first", "second", "third"])
    ref = manager(
        endpoint=cast("Any", Somewhere(gemini.url, credentials)), retry=RetryPolicy(initial_delay=0.01)
    )
    for left in (1, 0):
        stream_id = ref.start_stream("why", subscriber=probe.ref)
        assert isinstance(last_of(probe, stream_id), StreamComplete)
        assert len(credentials.left) == left


def test_a_key_that_has_run_out_is_not_sent_again(
    gemini: LocalGemini, manager: StartManager, probe: Probe
) -> None:
    gemini.keys = ("new",)
    credentials = Rotating(["old", "new"])
    ref = manager(endpoint=cast("Any", Somewhere(gemini.url, credentials)))
    ref.start_stream("why", subscriber=probe.ref)
    assert not isinstance(last_of(probe), StreamComplete)


def test_an_api_key_is_a_value_that_shows_nothing() -> None:
    key = ApiKey(Secret("the-key"))
    assert key == ApiKey(Secret("the-key"))
    assert hash(key) == hash(ApiKey(Secret("the-key")))
    assert key != ApiKey(Secret("another"))
    assert key.fingerprint == ApiKey(Secret("the-key")).fingerprint
    assert "the-key" not in f"{key!r} {key} {key.headers()} {key.fingerprint}"
    assert f"Bearer {key.headers()['x-goog-api-key'].reveal()}" == "Bearer the-key"
