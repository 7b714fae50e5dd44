"""The TLS contexts of one manager: one for each way of verifying servers and each client certificate.

The rules:

- To load a bundle of certificates takes some 20 ms and 700 KiB. So a context is made once, and every connection of the
  manager that verifies in the same way shares it.
- A context verifies the server's certificate and its host name, by `verify` of requests: `True` is requests'
  own bundle, a path is a bundle or a directory of certificates, `False` verifies nothing.
- `cert` is a client certificate as requests takes it: a file with certificate and key, or the two paths. A key that is
  encrypted is refused, since no thread of ours asks for its password.
- Files can be renewed while the manager lives. Each new connection looks at their times and sizes, and a context of
  other files is made anew. While a file cannot be read, for it is just being replaced, the former context stays.
- A file that has never been readable raises `OSError` (`ssl.SSLError` among them): that connection fails.

Any thread may ask. Two threads that need a new context at once wait for each other: it is made once.
"""

from __future__ import annotations

import ssl
import threading
from pathlib import Path

from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.util.ssl_ import create_urllib3_context

__all__ = ["Certificate", "Trust"]

Certificate = str | tuple[str, str] | None
"""A client certificate as requests takes it."""

_Stamp = tuple[tuple[int, int, int], ...]


class Trust:
    """The contexts of one manager."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._contexts: dict[tuple[bool | str, Certificate], tuple[_Stamp, ssl.SSLContext]] = {}
        self.loads = 0
        """How many contexts have been made so far."""

    def context(self, verify: bool | str, cert: Certificate = None) -> ssl.SSLContext:  # noqa: FBT001 - requests' name
        """Return the context for a new connection. Raises `OSError` where a file cannot be read."""
        key = (verify, cert)
        with self._lock:
            known = self._contexts.get(key)
            try:
                stamp = _stamp(verify, cert)
                if known is None or known[0] != stamp:
                    known = self._contexts[key] = (stamp, _made(verify, cert))
                    self.loads += 1
            except OSError:
                if known is None:
                    raise
            return known[1]


def _files(verify: bool | str, cert: Certificate) -> list[Path]:  # noqa: FBT001
    bundle = [DEFAULT_CA_BUNDLE_PATH if verify is True else str(verify)] if verify else []
    several = (cert,) if isinstance(cert, str) else cert or ()
    return [Path(path).expanduser() for path in (*bundle, *several)]


def _stamp(verify: bool | str, cert: Certificate) -> _Stamp:  # noqa: FBT001
    """Return what changes when a file is replaced."""
    found = [path.stat() for path in _files(verify, cert)]
    return tuple((at.st_mtime_ns, at.st_size, at.st_ino) for at in found)


def _made(verify: bool | str, cert: Certificate) -> ssl.SSLContext:  # noqa: FBT001
    context = create_urllib3_context()
    if verify:
        context.verify_mode = ssl.CERT_REQUIRED
        context.check_hostname = True
        [bundle] = _files(verify, None)
        if bundle.is_dir():
            context.load_verify_locations(capath=bundle)
        else:
            context.load_verify_locations(cafile=bundle)
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if cert is not None:
        files = _files(verify=False, cert=cert)
        context.load_cert_chain(files[0], files[1] if len(files) > 1 else None, password="")
    return context
