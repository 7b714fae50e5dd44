"""An exception of requests, urllib3 or ssl in our words: plain text without a key, and nothing of theirs kept.

Their exceptions hold the request, and so its headers and the key. An error of ours holds text alone, scrubbed by the
target (`Target.words`).
"""

from __future__ import annotations

import errno
import ssl

from gemini_streams.api.endpoint import Target
from gemini_streams.errors import (
    ConnectionFailedError,
    ConnectionLostError,
    GeminiStreamsError,
    UnexpectedResponseError,
)
from gemini_streams.http.chunked import ChunkedError
from gemini_streams.http.connection import ProxyRefusedError
from gemini_streams.http.content_coding import CodingError, CutError
from gemini_streams.http.http1 import HeadError

__all__ = ["Interrupted", "failure_of"]


class Interrupted(Exception):  # noqa: N818 - it is no error: somebody asked for it
    """The exchange was interrupted from another thread."""


def failure_of(
    error: BaseException, target: Target | None = None, *, connected: bool
) -> GeminiStreamsError | Interrupted:
    """Say in our words, and in plain text, what requests, urllib3, http.client or ssl raised.

    `connected`: the request had a connection.
    """
    if isinstance(error, GeminiStreamsError | Interrupted):
        return error.with_traceback(None)
    cause = _root(error)
    if isinstance(cause, GeminiStreamsError):
        return cause.with_traceback(None)
    text = _in_plain_words(cause)
    if target is not None:
        text = target.words(text)  # it can quote the server or a proxy, which may quote our headers
    number = cause.errno if isinstance(cause, OSError) else None
    if number in (errno.EMFILE, errno.ENFILE):
        return ConnectionFailedError(
            "no file descriptor left for a connection: raise the soft limit (`ulimit -n`) or lower max_streams"
        )
    if isinstance(cause, ssl.SSLCertVerificationError):
        return ConnectionFailedError(
            f"the server's certificate does not verify: {cause.verify_message}", retryable=False
        )
    if isinstance(cause, ChunkedError):
        return ConnectionLostError(f"the answer's chunks are broken: {text}")
    if isinstance(cause, HeadError):
        return UnexpectedResponseError(f"the answer is no HTTP: {cause}")
    if isinstance(cause, CodingError):
        return UnexpectedResponseError(str(cause))
    if isinstance(cause, CutError):
        return ConnectionLostError(str(cause))
    if not connected:
        where = "" if target is None else f" to {target.base_url}"
        return ConnectionFailedError(
            f"no connection{where}: {text}",
            retryable=not _is_about_a_bundle(error, cause),
        )
    return ConnectionLostError(f"the connection was lost: {text}")


def _is_about_a_bundle(error: BaseException, cause: BaseException) -> bool:
    """Whether it is `verify=` that is wrong: a file that is not there (requests' own word), or is no PEM.

    A proxy's refusal is an `OSError` without a number, too, but of a class of its own.
    """
    if isinstance(cause, ssl.SSLError):
        return cause.library == "X509"
    return type(error) is OSError and error.errno is None


def _root(error: BaseException) -> BaseException:
    """Return the exception that began it: requests wraps what urllib3 wrapped of what the system said."""
    seen: set[int] = set()
    while id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, GeminiStreamsError):
            break
        reason = getattr(error, "reason", None)
        inner = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if isinstance(reason, BaseException):
            inner = reason
        elif inner is None:
            inner = next((arg for arg in error.args if isinstance(arg, BaseException)), None)
        if inner is None:
            break
        error = inner
    return error


def _in_plain_words(cause: BaseException) -> str:
    if isinstance(cause, TimeoutError) and cause.errno is None:
        return "connect_timeout passed"
    if isinstance(cause, ssl.SSLEOFError):
        return "it was closed without the end that TLS has for that"
    if isinstance(cause, ProxyRefusedError):
        return str(cause)
    if isinstance(cause, OSError) and cause.strerror:
        return str(cause.strerror)
    return f"{type(cause).__name__}: {cause}"
