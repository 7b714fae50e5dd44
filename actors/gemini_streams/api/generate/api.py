"""`streamGenerateContent` as an API: `api.protocol` says what each part is for. Pure.

The rules:

- A request is a POST of the same body each time. One that goes on takes the continuation token along, and no more.
- The resume point is a `Checkpoint`: the continuation token, and what was in pieces at it.
- With `automatic_continuation=False` a request has no resume point.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import msgspec

from gemini_streams.api.body import Body, encode
from gemini_streams.api.endpoint import Target
from gemini_streams.api.generate import response
from gemini_streams.api.generate.meaning import Checkpoint, Meaning
from gemini_streams.api.generate.request import TOKEN, build_request, with_token
from gemini_streams.api.protocol import Call, CancelOn, Onward, Request, ResumePoint, Start
from gemini_streams.errors import GeminiStreamsError

__all__ = ["GENERATE_CONTENT", "GenerateContent", "GenerateRequest"]

_decoder = msgspec.json.Decoder()


class GenerateRequest:
    """What one stream asks of `streamGenerateContent`."""

    __slots__ = ("_follows", "_without", "body", "bound")

    cancel_on: CancelOn = "never"
    start: Start | None = None
    body: Body
    """JSON."""

    def __init__(self, body: Body, token: Any, *, follows: bool) -> None:
        self._without = body  # any token
        self.body = body if token is None else with_token(body, token)
        self._follows = follows  # continuation tokens
        self.bound = token is not None

    def __repr__(self) -> str:
        return f"<GenerateRequest of {sum(map(len, self.body))} bytes>"

    def call(self, target: Target, model: str, resume: ResumePoint | None) -> Call:
        """Return the POST of the body, with the token to go on from where there is one."""
        body = self.body
        if resume is not None:
            body = with_token(self._without, cast("Checkpoint", resume).token)
        return Call("POST", f"{target.model_url(model)}:streamGenerateContent?alt=sse", body)

    def events(
        self,
        room: int,
        resume: ResumePoint | None,
        clock: Callable[[], float],  # noqa: ARG002 - nothing here depends on the time
    ) -> Meaning:
        """Return the reader of the events that answer a call."""
        return Meaning(room, cast("Checkpoint | None", resume), follows=self._follows)

    def onward(
        self,
        resume: ResumePoint | None,
        resume_at: int,
        error: GeminiStreamsError,  # noqa: ARG002 - every failure leads to the same place
        *,
        got_on: bool,  # noqa: ARG002 - the policy counts every attempt
    ) -> Onward:
        """Go on behind the last continuation token, or from the beginning where there is none."""
        return Onward(resume, 0 if resume is None else resume_at)

    def cancel(self, target: Target, resume: ResumePoint | None) -> None:
        """There is nothing to cancel: the work ends with its connection."""

    def interaction_id(self, resume: ResumePoint | None) -> None:
        """The server keeps nothing."""

    def cursor(self, resume: ResumePoint | None, attempt: int) -> None:
        """The server keeps nothing."""

    def shown(self) -> dict[str, Any]:
        """Return the body, decoded anew at each use."""
        return cast("dict[str, Any]", _decoder.decode(b"".join(self.body)))

    def same_as(self, other: Request) -> bool:
        """Whether the other request has the same body, whatever the order of its keys."""
        return isinstance(other, GenerateRequest) and (
            other.body == self.body or other.shown() == self.shown()
        )


class GenerateContent:
    """The API `streamGenerateContent`."""

    text_of = staticmethod(response.text_of)
    thoughts_of = staticmethod(response.thoughts_of)
    function_calls_of = staticmethod(response.function_calls_of)
    finish_reason_of = staticmethod(response.finish_reason_of)
    usage_of = staticmethod(response.usage_of)
    role_of = staticmethod(response.role_of)
    plain_text_of = staticmethod(response.plain_text_of)
    whole_parts_of = staticmethod(response.whole_parts_of)

    def request(self, contents: Any, config: Any = None) -> GenerateRequest:
        """Build a request of what google-genai takes as contents and config (`request`)."""
        built = build_request(contents, config)
        token = built.body.pop(TOKEN, None)
        return GenerateRequest(encode(built.body), token, follows=built.automatic_continuation)


GENERATE_CONTENT = GenerateContent()
