"""A certificate authority made for the occasion, in a file that a client can trust. Needs the extra `tls`."""

from __future__ import annotations

import os
import ssl
import tempfile
from pathlib import Path

__all__ = ["make_authority", "remove_authority"]


def make_authority() -> tuple[ssl.SSLContext, str]:
    """Return a server's context for 127.0.0.1 and localhost, and the file of the authority to trust."""
    try:
        import trustme  # noqa: PLC0415 - an optional dependency
    except ImportError as missing:
        raise ImportError(
            'LocalGemini(tls=True) makes its certificates with trustme: pip install "gemini-streams[tls]"'
        ) from missing
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    handle, file = tempfile.mkstemp(prefix="local-gemini-", suffix=".pem")
    with os.fdopen(handle, "wb") as writing:
        writing.write(authority.cert_pem.bytes())
    return context, file


def remove_authority(file: str | None) -> None:
    """Remove the file, where there is one."""
    if file is not None:
        Path(file).unlink(missing_ok=True)
