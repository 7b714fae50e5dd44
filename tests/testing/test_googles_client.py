"""Google's own client takes LocalGemini for the real one."""

from __future__ import annotations

import pytest

from gemini_streams.testing import Failure, LocalGemini, LongAnswer, Reply

genai = pytest.importorskip("google.genai")


def test_googles_client_reads_answers_errors_and_long_answers(gemini: LocalGemini) -> None:
    text = " ".join(f"word{n}" for n in range(20))
    gemini.on("why", Reply("one two three"))
    gemini.on("limit", Failure(429, "slow down", retry_delay="3s"))
    gemini.on("inside", Reply("one two", error_after=(1, Failure(503, "overloaded"))))
    gemini.on("long", LongAnswer(text, hops=4))
    client = genai.Client(api_key="local-key", http_options={"base_url": gemini.url, "api_version": "v1beta"})
    with client:

        def ask(prompt: str) -> str:
            chunks = client.models.generate_content_stream(model="gemini-test", contents=prompt)
            return "".join(chunk.text or "" for chunk in chunks)

        assert ask("why?") == "one two three"
        for prompt, code in (("limit", 429), ("inside", 503)):
            with pytest.raises(genai.errors.APIError) as refused:
                ask(prompt)
            assert refused.value.code == code
        assert ask("long") == text
    assert [record.text for record in gemini.requests] == ["why?", "limit", "inside"] + ["long"] * 4
