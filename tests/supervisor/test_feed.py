"""The queue before the observers: a thread that puts lets go of nothing that an application owns."""

from __future__ import annotations

import threading
from typing import Any, ClassVar

from pykka_supervisor.observe import Feed


class Owned:
    """An application's object; it notes the thread that let go of it last."""

    def __init__(self, gone: list[str]) -> None:
        self.gone = gone

    def __del__(self) -> None:
        self.gone.append(threading.current_thread().name)


class Told:
    hook: ClassVar[str] = "on_restart"

    def __init__(self, owned: Any, *, important: bool) -> None:
        self.owned = owned
        self.important = important


def test_a_record_that_gives_way_is_let_go_by_the_thread_that_takes() -> None:
    gone: list[str] = []
    feed = Feed((), limit=2)
    feed.put(Told(Owned(gone), important=False))
    feed.put(Told(None, important=True))
    feed.put(Told(None, important=True))
    assert (feed.lost, gone) == (1, [])
    thread = threading.Thread(target=feed.take, name="the observers")
    thread.start()
    thread.join(20)
    assert gone == ["the observers"]
