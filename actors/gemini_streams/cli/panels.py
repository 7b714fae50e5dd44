"""What the demonstration shows: a panel for each stream, with what has come of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from gemini_streams.answer import Answer
from gemini_streams.messages import (
    StreamComplete,
    StreamError,
    StreamEvent,
    StreamRestarting,
    StreamStopped,
    SubscriberMessage,
)

__all__ = ["Panel", "end_of", "panels_to_show"]


@dataclass
class Panel:
    """What is shown of one stream."""

    name: str
    prompt: str
    model: str | None = None
    """Another one than the others are asked for."""
    fails: bool = False
    """It is meant to."""
    broken: bool = False
    """It is meant to be broken off in mid-answer, and to be started again."""
    stream_id: str = ""
    answer: Answer = field(default_factory=Answer)
    attempt: int = 1
    restart: StreamRestarting | None = None
    """While the next attempt is waited for."""
    again_at: float = 0.0
    events: int = 0

    def take(self, message: SubscriberMessage, now: float) -> None:
        """Fold a message; `now` is in seconds of `time.monotonic()`."""
        self.answer.add(message)
        self.restart = None
        match message:
            case StreamEvent():
                self.events += 1
            case StreamRestarting():
                self.restart = message
                self.attempt = message.attempt
                self.again_at = now + message.delay
            case _:
                pass

    @property
    def as_meant(self) -> bool:
        """Whether the stream has ended as the demonstration wants it to."""
        return self.answer.error is not None if self.fails else self.answer.ok

    def status(self, now: float) -> str:
        """Return how the stream stands, in a few words."""
        last = self.answer.last
        if last is not None:
            return end_of(last)
        again = f"attempt {self.attempt}: " if self.attempt > 1 else ""
        if self.restart is not None and self.again_at > now:
            return f"restarts in {self.again_at - now:.1f} s"
        return f"{again}answering" if self.answer.text else f"{again}asking"

    @property
    def trouble(self) -> str:
        """What has gone wrong, as long as it matters."""
        if self.answer.error is not None:
            error = self.answer.error
            return f"{type(error).__name__}: {error}"
        if self.restart is not None:
            void = "what it had said is void" if self.restart.discard else "nothing is lost"
            return f"{self.restart.error}; {void}"
        return ""


def end_of(last: object) -> str:
    """Return how a stream has ended, in a few words."""
    match last:
        case StreamComplete():
            again = f", {last.attempts} attempts" if last.attempts > 1 else ""
            return f"{last.finish_reason or last.block_reason}, {last.duration:.1f} s{again}"
        case StreamError():
            return "failed for good"
        case StreamStopped():
            return "stopped"
        case _:
            return ""


def panels_to_show() -> list[Panel]:
    """Return the panels of the demonstration, new ones."""
    return [
        Panel("tides", "Why are there two high tides a day? Answer in about sixty words."),
        Panel("rain", "Write four lines about rain on a tin roof."),
        Panel("sailors", "How did sailors find their longitude? In about sixty words.", broken=True),
        Panel("salt", "What does salt do in bread dough? Answer in about fifty words."),
        Panel("nobody", "Say hello.", model="gemini-no-such-model", fails=True),
        Panel("bees", "How do bees tell each other where to fly? In about sixty words."),
    ]
