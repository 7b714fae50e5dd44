"""Many streams at once: 300 of them on four subscribers. Runs on a local Gemini; no key is needed."""

import queue
import threading
import time
from collections import defaultdict
from typing import Any

from gemini_streams import Answer, ManagerActor, StreamEvent, SubscriberActor
from gemini_streams.testing import LocalGemini, Reply

STREAMS, READERS = 300, 4


class Reader(SubscriberActor):
    """Keeps the answers of many streams apart, and hands over each that is done."""

    def __init__(self, finished: "queue.SimpleQueue[Answer]") -> None:
        super().__init__()
        self._finished = finished
        self._answers: defaultdict[str, Answer] = defaultdict(Answer)

    def on_stream_event(self, event: StreamEvent) -> None:
        """Take an event of any of the streams."""
        self._take(event)

    def _take(self, message: Any) -> None:
        answer = self._answers[message.stream_id]
        answer.add(message)
        if answer.done:
            self._finished.put(self._answers.pop(message.stream_id))

    on_stream_restarting = on_stream_complete = on_stream_error = on_stream_stopped = _take


def main() -> None:
    """Start them all, wait for every answer, and say how it went."""
    finished: queue.SimpleQueue[Answer] = queue.SimpleQueue()
    with LocalGemini(pace=0.05) as gemini:
        gemini.on("number", Reply("This is the answer to one of many questions that are asked at once."))
        manager = ManagerActor.start(endpoint=gemini.endpoint, max_streams=STREAMS)
        readers = [Reader.start(finished) for _ in range(READERS)]
        began = time.monotonic()
        for number in range(STREAMS):
            manager.start_stream(f"Question number {number}", subscriber=readers[number % READERS])
        answers = [finished.get() for _ in range(STREAMS)]
        seconds, threads = time.monotonic() - began, threading.active_count()
        print(f"{sum(answer.ok for answer in answers)} of {STREAMS} answers are whole")
        print(f"{manager.get_stats().events} events in {seconds:.1f} s; {threads} threads are left")
        manager.stop()


if __name__ == "__main__":
    main()
