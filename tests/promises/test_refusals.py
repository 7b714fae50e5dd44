"""Messages to the manager that are refused or unknown: said once, and the manager lives."""

from __future__ import annotations

from typing import Any, cast

import pytest

from gemini_streams import (
    InvalidRequestError,
    StartStream,
    StreamNotFoundError,
    Subscribe,
)
from kit.scene import Scene
from pykka_supervisor.cell import cell_of


def test_what_is_refused_or_unknown_is_said_once_and_the_manager_lives(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with Scene() as scene:
        probe = scene.probe()
        wrong: list[tuple[Any, type[Exception]]] = [
            (Subscribe("nobody", probe.ref), StreamNotFoundError),
            (StartStream("why", subscriber=cast("Any", "nobody")), InvalidRequestError),
            (StartStream("why", subscriber=probe.ref, idle_timeout=-1), InvalidRequestError),
            (StartStream(cast("Any", 17), subscriber=probe.ref), InvalidRequestError),
            (StartStream("why", subscriber=probe.ref, stream_id=cast("Any", 17)), InvalidRequestError),
            ("a text", InvalidRequestError),
            (None, InvalidRequestError),
            ({"command": "stop"}, InvalidRequestError),
            (object(), InvalidRequestError),
            (StartStream, InvalidRequestError),
        ]
        for message, error in wrong:
            with pytest.raises(error):
                scene.manager.ask(message, timeout=2)
        assert caplog.records == []
        for message, _ in wrong:
            scene.manager.tell(message)
        assert scene.manager.list_streams() == []
        assert [record.levelname for record in caplog.records] == ["WARNING"] * len(wrong)
        assert all("request_refused" in record.getMessage() for record in caplog.records)
        assert cell_of(scene.manager).generation == 1
