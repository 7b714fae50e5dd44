"""A chat room: whoever is in it sees the model's answer while it comes. Runs on a local Gemini; no key is needed.

One stream has many subscribers. One comes in the middle of an answer and is given its beginning; one leaves in the
middle, and the others do not notice.
"""

import threading
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import pykka

from gemini_streams import FROM_START, Answer, ManagerActor, ManagerRef, StreamEvent, SubscriberActor
from gemini_streams.testing import LocalGemini, Reply


class Person(SubscriberActor):
    """Somebody in the room. The screen shows all that the model has said to this person."""

    def __init__(self, heard: threading.Semaphore) -> None:
        super().__init__()
        self._heard = heard
        self._answers: defaultdict[str, Answer] = defaultdict(Answer)

    def on_stream_event(self, event: StreamEvent) -> None:
        """Read an event of any of the answers."""
        self._take(event)

    def _take(self, message: Any) -> None:
        answer = self._answers[message.stream_id]
        answer.add(message)  # takes text back that a restart makes void
        if answer.done:
            self._heard.release()

    on_stream_restarting = on_events_dropped = _take
    on_stream_complete = on_stream_error = on_stream_stopped = _take

    def screen(self) -> list[str]:
        """Return the answers as far as they have come."""
        return [answer.text for answer in self._answers.values()]


@dataclass(frozen=True)
class Join:
    """Come into the room."""

    person: pykka.ActorRef[Any]


@dataclass(frozen=True)
class Leave:
    """Leave the room."""

    person: pykka.ActorRef[Any]


@dataclass(frozen=True)
class Say:
    """Say something to everybody; the model answers what has its name in it."""

    name: str
    text: str


class Room(SubscriberActor):
    """Knows the conversation and who is there. It subscribes to each answer itself, to keep the model's turn."""

    def __init__(self, manager: ManagerRef, heard: threading.Semaphore) -> None:
        super().__init__()
        self._manager, self._heard = manager, heard
        self._people: list[pykka.ActorRef[Any]] = []
        self._turns: list[Any] = []
        self._answer = Answer()
        self._stream_id: str | None = None

    def on_receive(self, message: Any) -> None:
        """Take what the people do."""
        match message:
            case Join(person):
                self._people.append(person)
                if self._stream_id is not None:
                    self._manager.subscribe_stream(self._stream_id, person, after=FROM_START)
            case Leave(person):
                self._people.remove(person)
                if self._stream_id is not None:
                    self._manager.unsubscribe_stream(self._stream_id, person)
            case Say(name, text):
                self._turns.append({"role": "user", "parts": [{"text": f"{name}: {text}"}]})
                if "@gemini" in text:
                    everybody = [self.actor_ref, *self._people]
                    self._answer = Answer()
                    self._stream_id = self._manager.start_stream(
                        self._turns, subscriber=everybody, history=1 << 20
                    )

    def on_stream_event(self, event: StreamEvent) -> None:
        """Keep an event of the present answer."""
        self._take(event)

    def _take(self, message: Any) -> None:
        self._answer.add(message)
        if self._answer.done:
            self._stream_id = None
            if self._answer.ok:
                self._turns.append(self._answer.content)
            self._heard.release()

    on_stream_restarting = on_events_dropped = _take
    on_stream_complete = on_stream_error = on_stream_stopped = _take


def main() -> None:
    """Two questions; while the first is answered, Carol comes and Bob leaves."""
    heard = threading.Semaphore(0)  # one for each who has heard an answer to its end
    with LocalGemini() as gemini:
        gemini.on("And at night", Reply("Then it is black."))
        gemini.on("the sky", Reply("It is blue by day.", hold_after=2))
        manager = ManagerActor.start(endpoint=gemini.endpoint)
        room = Room.start(manager, heard)
        ada, bob, carol = (Person.start(heard) for _ in range(3))
        room.ask(Join(ada))
        room.ask(Join(bob))
        room.ask(Say("Ada", "What colour is the sky, @gemini?"))
        gemini.gate("the sky").reached()
        room.ask(Join(carol))
        room.ask(Leave(bob))
        gemini.gate("the sky").open()
        for _ in (room, ada, carol):
            heard.acquire()
        room.ask(Say("Carol", "And at night, @gemini?"))
        for _ in (room, ada, carol):
            heard.acquire()

        for name, person in (("Ada", ada), ("Carol", carol)):
            print(f"{name} has read: {' '.join(person.proxy().screen().get())}")
        print(f"Bob has read all: {bob.proxy().screen().get() == ada.proxy().screen().get()}")
        turns = gemini.requests[1].body["contents"]
        print("the second request:", ", ".join(turn["role"] for turn in turns))
        manager.stop()
    pykka.ActorRegistry.stop_all()


if __name__ == "__main__":
    main()
