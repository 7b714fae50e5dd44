"""Messages to the manager that are refused or unknown: said once, and the manager lives."""

from __future__ import annotations

from typing import Any, cast

import pytest

from gemini_streams import (
    InvalidRequestError,
    ManagerRef,
    StartStream,
    StreamNotFoundError,
    Subscribe,
)
from pykka_supervisor.cell import cell_of
from pykka_supervisor.testing import Probe


def test_what_is_refused_or_unknown_is_said_once_and_the_manager_lives(
    caplog: pytest.LogCaptureFixture, gemini_manager: ManagerRef, gemini_probe: Probe
) -> None:
    wrong: list[tuple[Any, type[Exception]]] = [
        (Subscribe("nobody", gemini_probe.ref), StreamNotFoundError),
        (StartStream("why", subscriber=cast("Any", "nobody")), InvalidRequestError),
        (StartStream("why", subscriber=gemini_probe.ref, idle_timeout=-1), InvalidRequestError),
        (StartStream(cast("Any", 17), subscriber=gemini_probe.ref), InvalidRequestError),
        (StartStream("why", subscriber=gemini_probe.ref, stream_id=cast("Any", 17)), InvalidRequestError),
        ("a text", InvalidRequestError),
        (None, InvalidRequestError),
        ({"command": "stop"}, InvalidRequestError),
        (object(), InvalidRequestError),
        (StartStream, InvalidRequestError),
    ]
    for message, error in wrong:
        with pytest.raises(error):
            gemini_manager.ask(message, timeout=2)
    assert caplog.records == []
    for message, _ in wrong:
        gemini_manager.tell(message)
    assert gemini_manager.list_streams() == []
    assert [record.levelname for record in caplog.records] == ["WARNING"] * len(wrong)
    assert all("request_refused" in record.getMessage() for record in caplog.records)
    assert cell_of(gemini_manager).generation == 1
