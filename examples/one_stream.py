"""One stream to one subscriber, which is an ordinary Pykka actor. Runs on a local Gemini; no key is needed."""

from typing import Any

import pykka

from gemini_streams import (
    ManagerActor,
    StreamComplete,
    StreamError,
    StreamEvent,
    StreamRestarting,
    StreamStopped,
)
from gemini_streams.testing import LocalGemini, Reply


class Printer(pykka.ThreadingActor):
    """Prints an answer as it comes, and says how it ended."""

    def on_receive(self, message: Any) -> None:
        """Take one message of the stream."""
        match message:
            case StreamEvent():
                print(message.text, end="", flush=True)
            case StreamRestarting():
                print(f"\n[again from event {message.resume_at}: {message.error}]")
            case StreamComplete():
                print(f"\n[{message.finish_reason}, {message.events_count} events]")
                self.stop()
            case StreamError() | StreamStopped():
                print(f"\n[{message}]")
                self.stop()


def main() -> None:
    """Ask one question. The answer breaks off in the middle; the supervisor asks again."""
    answer = "The sky is blue because air scatters short waves more than long ones."
    with LocalGemini(pace=0.05) as gemini:  # with the real one: no `endpoint`, and a key in the environment
        gemini.on("sky", Reply(answer, end="reset", end_after=5), Reply(answer))
        manager = ManagerActor.start(endpoint=gemini.endpoint)
        printer = Printer.start()
        manager.start_stream("Why is the sky blue?", subscriber=printer)
        printer.actor_stopped.wait()
        manager.stop()


if __name__ == "__main__":
    main()
