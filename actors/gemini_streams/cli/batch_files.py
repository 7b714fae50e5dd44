"""The files of `batch`: prompts in, answers out, a JSON object a line, as Google's batch mode has them.

The rules:

- A line of the input is `{"key": ..., "request": {...}}`. One of the output has a `key`, and a `response` or an
  `error`.
- A key is in the input once. The whole input is read and checked before anything is asked.
- The output is only appended to, in one write a line, so that a kill -9 leaves whole lines and at most half a last one.
  When it is opened again, half a line is cut off and lines with an `error` are left out: those keys are asked again.
- One process at a time has an output: a lock on the file says so.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from gemini_streams.answer import Answer
from gemini_streams.cli.output import UsageError, fields_of
from gemini_streams.errors import InvalidRequestError
from gemini_streams.messages import StartStream, StreamComplete

__all__ = ["BatchError", "Output", "line_of", "read_keys", "requests_of"]

_BESIDE = frozenset({"contents", "model", "generationConfig", "generation_config"})


class BatchError(UsageError):
    """A file is not as it should be."""


def read_keys(source: Path) -> list[str]:
    """Read and check the whole input; returns its keys in order. Raises `BatchError`, `OSError`."""
    seen: dict[str, int] = {}
    for number, record in _lines(source):
        key = record.get("key")
        if not isinstance(key, str) or not isinstance(record.get("request"), dict):
            raise BatchError(f'{source}:{number}: a line is {{"key": "...", "request": {{...}}}}')
        if key in seen:
            raise BatchError(f"{source}:{number}: the key {key[:60]!r} stands in line {seen[key]} already")
        seen[key] = number
    return list(seen)


def requests_of(source: Path, skip: set[str]) -> Iterator[StartStream]:
    """Give the requests whose key is not in `skip`, each with its key as `tag`, as they are read."""
    for _, record in _lines(source):
        if record["key"] not in skip:
            yield _request(record["key"], record["request"])


def _request(key: str, request: dict[str, Any]) -> StartStream:
    inner = request.get("generationConfig", request.get("generation_config")) or {}
    config = {name: value for name, value in request.items() if name not in _BESIDE}
    if isinstance(inner, dict):
        config |= inner
    own: dict[str, Any] = {"model": request["model"]} if request.get("model") is not None else {}
    return StartStream(request.get("contents"), tag=key, config=config or None, **own)


def line_of(key: str, answer: Answer) -> bytes:
    """Return the output's line for an answer that is done."""
    last = answer.last
    if isinstance(last, StreamComplete) and not answer.missing:
        response: dict[str, Any] = {}
        if answer.content is not None or last.finish_reason is not None:
            candidate = {"content": answer.content, "finishReason": last.finish_reason, "index": 0}
            response["candidates"] = [{n: value for n, value in candidate.items() if value is not None}]
        if last.block_reason is not None:
            response["promptFeedback"] = {"blockReason": last.block_reason}
        if answer.usage is not None:
            response["usageMetadata"] = answer.usage
        said: dict[str, Any] = {"key": key, "response": response}
    else:
        said = {"key": key, "error": fields_of(answer.error or InvalidRequestError("no answer"))}
    try:
        return msgspec.json.encode(said) + b"\n"
    except (OverflowError, ValueError):  # an integer of any length, in a function call
        return json.dumps(said).encode() + b"\n"


def _lines(source: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with source.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                record = msgspec.json.decode(line)
            except msgspec.DecodeError as error:
                raise BatchError(f"{source}:{number}: no JSON ({error})") from None
            if not isinstance(record, dict):
                raise BatchError(f"{source}:{number}: a line is a JSON object")
            yield number, record


class Output:
    """The output of a batch, with what is in it from an earlier run."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = _locked(path)
        self.done: set[str] = set()
        """Keys that have a response."""
        self.not_whole = 0
        """Responses that ended otherwise than with STOP."""
        try:
            self._take_up()
        except BaseException:
            self.close()
            raise

    def add(self, line: bytes) -> None:
        """Append a line."""
        left = memoryview(line)
        while left:
            left = left[os.write(self._file, left) :]

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _take_up(self) -> None:
        failed = False
        whole = 0
        with self._path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                whole += len(line)
                key, response = self._read(line)
                if response is None:
                    failed = True
                else:
                    self.done.add(key)
                    self.not_whole += not _is_whole(response)
        os.ftruncate(self._file, whole)
        if failed:
            self._leave_errors_out()

    def _read(self, line: bytes) -> tuple[str, Any]:
        try:
            record = msgspec.json.decode(line)
            return record["key"], record["response"] if "response" in record else record["error"] and None
        except (msgspec.DecodeError, LookupError, TypeError):
            raise BatchError(
                f"{self._path} holds a line that is no answer of a batch: give another file, or remove it"
            ) from None

    def _leave_errors_out(self) -> None:
        """Write the file anew without its errors; whenever this is killed, one of the two files is whole."""
        new = self._path.with_name(self._path.name + ".new")
        file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o666)
        old, self._file = self._file, file
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with self._path.open("rb") as source:
                for line in source:
                    if self._read(line)[1] is not None:
                        self.add(line)
            os.fsync(file)
            new.replace(self._path)
        finally:
            os.close(old)


def _is_whole(response: Any) -> bool:
    with contextlib.suppress(LookupError, TypeError):
        return bool(response["candidates"][0]["finishReason"] == "STOP")
    return False


def _locked(path: Path) -> int:
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(file).st_ino == path.stat().st_ino:
                return file
        except BlockingIOError:
            os.close(file)
            raise BatchError(f"another batch writes to {path}") from None
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # it was replaced meanwhile
