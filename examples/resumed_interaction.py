"""An agent's long answer: the process that reads it is killed in the middle, and another one goes on behind its cursor.

The reader stores the cursor of each event in a file, as it would in a database, together with what the event says. When
it is killed, nothing of the answer is lost, repeated or bought twice.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from gemini_streams import Gemini, ManagerActor, ResumeInteraction, StartInteraction, StreamEvent, stream
from gemini_streams.testing import LocalGemini, Reply

ANSWER = [f"Chapter {number} of the report. " for number in range(1, 41)]


def read(base_url: str, store: Path) -> None:
    """Read the answer into the store, from where the store ends."""
    stored = [json.loads(line) for line in store.read_text().splitlines()]
    request = ResumeInteraction(stored[-1]["cursor"]) if stored else StartInteraction("Write the report.")
    manager = ManagerActor.start(endpoint=Gemini(api_key="local-key", base_url=base_url))
    with stream(manager, request) as events, store.open("a") as file:
        for event in events:
            if isinstance(event, StreamEvent):
                file.write(json.dumps({"cursor": event.cursor, "text": event.text}) + "\n")
                file.flush()
    manager.stop()


def main() -> None:
    """Kill the first reader in the middle, and let a second one read the rest."""
    with LocalGemini() as gemini, tempfile.TemporaryDirectory() as folder:
        gemini.on("report", Reply(ANSWER, pace=0.02))
        store = Path(folder) / "answer.jsonl"
        store.touch()
        command = [sys.executable, __file__, str(gemini.endpoint.base_url), str(store)]
        with subprocess.Popen(command) as reader:  # noqa: S603 - this file itself
            while store.read_text().count("\n") < 15:
                time.sleep(0.01)
            os.kill(reader.pid, signal.SIGKILL)
        print("killed in the middle of the answer")
        subprocess.run(command, check=True)  # noqa: S603
        text = "".join(json.loads(line)["text"] for line in store.read_text().splitlines())
        print("the answer is whole:", text == "".join(ANSWER))
        print("asked for once:", [record.action for record in gemini.requests].count("create") == 1)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        read(sys.argv[1], Path(sys.argv[2]))
    else:
        main()
