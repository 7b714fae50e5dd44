"""The streams as a part of an application's own supervision tree. Runs on a local Gemini; no key is needed."""

import threading

from gemini_streams import Answer, ManagerActor, ManagerRef, StreamComplete, StreamEvent, SubscriberActor
from gemini_streams.testing import LocalGemini, Reply
from pykka_supervisor import ChildSpec, Node, Supervisor, kill, snapshot, whereis


class Asker(SubscriberActor):
    """Asks a question when it starts, so after each of its own restarts too."""

    def __init__(self, question: str, answered: threading.Event) -> None:
        super().__init__()
        self._question, self._answered, self._answer = question, answered, Answer()

    def on_start(self) -> None:
        """Ask the manager, which stands before this actor in the tree."""
        manager = whereis("gemini", ManagerRef)
        if manager is None:
            raise LookupError("no manager is called gemini")
        self._stream_id = manager.start_stream(self._question, subscriber=self.actor_ref)

    def on_stream_event(self, event: StreamEvent) -> None:
        """Take it, unless it was asked for in a former life: a subscription outlives a restart."""
        if event.stream_id == self._stream_id:
            self._answer.add(event)

    def on_stream_complete(self, message: StreamComplete) -> None:
        """Say what the answer is."""
        if message.stream_id != self._stream_id:
            return
        self._answer.add(message)
        print(f"{self._answer.text} [whole: {self._answer.ok}, attempts: {message.attempts}]")
        self._answered.set()


def show(node: Node, depth: int = 0) -> None:
    """Print a tree of actors."""
    print("  " * depth + (node.id or node.actor_class))
    for child in node.children:
        show(child, depth + 1)


def main() -> None:
    """Kill the manager in the middle of an answer: it is restarted, and the stream does not notice."""
    answered = threading.Event()
    with LocalGemini() as gemini:
        gemini.on("well", Reply("All is well, thank you.", hold_after=2))
        streams = ManagerActor.child_spec(name="gemini", endpoint=gemini.endpoint)
        asker = ChildSpec(Asker, ("Is all well?", answered), id="asker")
        application = Supervisor.start([streams, asker], strategy="rest_for_one")
        gemini.gate("well").reached()
        show(snapshot(application))
        if manager := whereis("gemini", ManagerRef):  # this ref goes on working when the manager is restarted
            kill(manager)
        gemini.gate("well").open()
        answered.wait()
        application.stop()


if __name__ == "__main__":
    main()
