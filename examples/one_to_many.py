"""One stream to many subscribers: each has an inbox and a pace of its own. Runs on a local Gemini."""

import queue
import time

from gemini_streams import (
    FROM_START,
    Answer,
    FlowControl,
    ManagerActor,
    StreamComplete,
    StreamEvent,
    SubscriberActor,
)
from gemini_streams.testing import LocalGemini, Reply


class Reader(SubscriberActor):
    """Collects the answer, taking its time over each event."""

    def __init__(self, name: str, seconds: float, done: "queue.SimpleQueue[tuple[str, Answer]]") -> None:
        super().__init__()
        self._name, self._seconds, self._done = name, seconds, done
        self._answer = Answer()

    def on_stream_event(self, event: StreamEvent) -> None:
        """Read one event."""
        self._answer.add(event)
        time.sleep(self._seconds)
        if self._name == "clumsy":
            raise RuntimeError("this reader dies over its first event; the others do not notice")

    def on_stream_complete(self, message: StreamComplete) -> None:
        """Hand over what has arrived."""
        self._answer.add(message)
        self._done.put((self._name, self._answer))


def main() -> None:
    """Three subscribe at the start, one dies, and one comes late and has the beginning replayed."""
    done: queue.SimpleQueue[tuple[str, Answer]] = queue.SimpleQueue()
    with LocalGemini() as gemini:
        gemini.on("story", Reply("Once upon a time there was a stream. " * 20, hold_after=40))
        manager = ManagerActor.start(endpoint=gemini.endpoint, flow=FlowControl(window=32))
        names = {"quick": 0.0, "slow": 0.002, "clumsy": 0.0}
        readers = [Reader.start(name, seconds, done) for name, seconds in names.items()]
        stream_id = manager.start_stream("Tell a story", subscriber=readers, history=1_000_000)
        gemini.gate("story").reached()
        manager.subscribe_stream(stream_id, Reader.start("late", 0.0, done), after=FROM_START)
        gemini.gate("story").open()
        for name, answer in (done.get() for _ in range(3)):
            print(f"{name}: {len(answer.text)} characters, whole: {answer.ok}")
        manager.stop()


if __name__ == "__main__":
    main()
