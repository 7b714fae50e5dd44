"""Streams on asyncio, without a thread of yours. Runs on a local Gemini; no key is needed."""

import asyncio

from gemini_streams import FROM_START, ManagerActor, ManagerRef, aanswers, afollow, astream
from gemini_streams.testing import LocalGemini, Reply


async def ask(manager: ManagerRef, question: str) -> str:
    """Read one answer as it comes. Cancelling this task ends the stream, and closes its connection."""
    async with astream(manager, question, stream_id=question, history=1 << 20) as events:
        async for _piece in events.text_stream:
            pass  # send it to a browser, say
    events.answer.raise_for_error()
    return events.answer.text


async def read_along(manager: ManagerRef, stream_id: str) -> str:
    """Read a stream that another task has started, from its beginning."""
    async with afollow(manager, stream_id, after=FROM_START) as events:
        return "".join([piece async for piece in events.text_stream])


async def main() -> None:
    """Two tasks share one stream, a third one is cancelled, and three questions are asked at once."""
    with LocalGemini() as gemini:
        gemini.on("sky", Reply("Air scatters blue.", hold_after=1))
        gemini.on("sea", Reply("It mirrors the sky.", hold_after=1))
        gemini.on("number", Reply("Noted."))
        manager = ManagerActor.start(endpoint=gemini.endpoint)

        async with asyncio.TaskGroup() as tasks:
            asking = tasks.create_task(ask(manager, "And the sky?"))
            await asyncio.to_thread(gemini.gate("sky").reached)
            reading = tasks.create_task(read_along(manager, "And the sky?"))
            await asyncio.sleep(0)
            gemini.gate("sky").open()
        print(asking.result(), "|", reading.result())

        asking = asyncio.create_task(ask(manager, "And the sea?"))
        await asyncio.to_thread(gemini.gate("sea").reached)
        asking.cancel()
        request = gemini.requests[-1]
        await asyncio.to_thread(request.wait_closed)
        print("the sea: cancelled, and the connection closed:", request.client_closed)

        async for question, answer in aanswers(manager, [f"number {n}" for n in range(3)], at_once=3):
            print(question if answer.error else answer.text)

        await asyncio.to_thread(manager.stop)  # it waits for the last thread: not in the event loop


if __name__ == "__main__":
    asyncio.run(main())
