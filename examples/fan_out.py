"""A hundred prompts, twenty at a time, and each answer as it ends. Runs on a local Gemini; no key is needed."""

from collections.abc import Iterator

from gemini_streams import ManagerActor, RetryPolicy, StartStream, answers
from gemini_streams.testing import Failure, LocalGemini, Reply

PROMPTS = 100


def requests() -> Iterator[StartStream]:
    """Make the requests. Each is read when there is room for it, so the list may be longer than memory."""
    for number in range(1, PROMPTS + 1):
        yield StartStream(f"Proverb no. {number}, please.", tag=number, config={"temperature": 0.5})


def main() -> None:
    """Run them all, keep what is whole, and say what is not."""
    with LocalGemini() as gemini:
        gemini.on("no. 13,", Failure(400, "There is no such proverb."))
        gemini.on("no. 42,", Failure(503), Reply("Better late than never."))
        gemini.on("no. 77,", Failure(429, retry_delay="0.2s"), Reply("Haste makes waste."))
        gemini.on("Proverb", Reply("Many hands make light work."))
        manager = ManagerActor.start(endpoint=gemini.endpoint, retry=RetryPolicy(initial_delay=0.1))

        proverbs: dict[int, str] = {}
        for request, answer in answers(manager, requests(), at_once=20):
            if answer.ok:
                proverbs[request.tag] = answer.text
            else:
                print(f"no. {request.tag}: {answer.error}")

        print(f"{len(proverbs)} of {PROMPTS} answers are whole")
        print(f"no. 42: {proverbs[42]}")
        print(f"no. 77: {proverbs[77]}")
        print(f"{len(gemini.requests)} requests for {PROMPTS} prompts")
        manager.stop()


if __name__ == "__main__":
    main()
