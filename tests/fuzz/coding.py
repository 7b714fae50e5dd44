"""Content codings: gzip and its kin, sound, cut, damaged, stacked, unknown, and bombs.

Pure. A `Coded` says what a client can have made of its first bytes; it is zlib's own word.
"""

from __future__ import annotations

import functools
import zlib
from dataclasses import dataclass
from random import Random

from fuzz.body import Body

__all__ = ["Coded", "coded"]

_GZIP, _ZLIB, _RAW = 31, 15, -15
_SOUND = {"gzip": _GZIP, "x-gzip": _GZIP, "deflate": _ZLIB, "GZIP": _GZIP}
_BOMB_MIB = 160


@dataclass(frozen=True)
class Coded:
    """A body behind its content coding."""

    data: bytes
    header: str | None
    """The value of Content-Encoding."""
    wbits: int | None
    """zlib's number for the coding; `None`: not coded, or nobody can tell."""
    sound: bool
    """Whether every client that takes the coding must come to the same bytes."""
    readable: bool = True
    """Whether a client can make anything of it."""
    opaque: bool = False
    """Whether it is open what a client makes of a part of it."""

    def can_complete(self, body: Body, count: int | None = None) -> bool:
        """Whether a client that got the first `count` coded bytes of `body` can hold the answer for whole."""
        if not self.readable or self.opaque:
            return self.readable
        data = self.data if count is None else self.data[:count]
        return body.can_complete(data if self.wbits is None else _unpacked(data, self.wbits))


def coded(rng: Random, body: Body, *, sound: bool, bombs: bool) -> Coded:
    """Choose a coding for the body, mostly none."""
    plain = Coded(body.data, None, None, sound=True)
    if rng.random() < 0.65:
        return plain
    if sound:
        name = rng.choice(["gzip", "gzip", "deflate", "identity", ""])
        return _packed(rng, body.data, name) if name in _SOUND else Coded(body.data, name, None, sound=True)
    match rng.randrange(10):
        case 0:
            name = rng.choice(["br", "zstd", "compress", "fancy", "gzip, fancy", "chunked"])
            return Coded(body.data, name, None, sound=False, readable=False)
        case 1:
            return Coded(body.data, rng.choice(["identity", "", "Identity"]), None, sound=True)
        case 2:
            whole = _packed(rng, body.data, rng.choice(["gzip", "deflate"]))
            keep = rng.randrange(len(whole.data))
            return Coded(whole.data[:keep], whole.header, whole.wbits, sound=False)
        case 3:
            whole = _packed(rng, body.data, "gzip")
            behind = rng.choice([b"\0" * 64, b"garbage", whole.data])
            return Coded(whole.data + behind, whole.header, whole.wbits, sound=False, opaque=True)
        case 4:
            twice = _packed(rng, _packed(rng, body.data, "gzip").data, "gzip")
            return Coded(twice.data, "gzip, gzip", None, sound=False, opaque=True)
        case 5:
            return Coded(_compress(rng, body.data, _RAW), "deflate", _RAW, sound=False)
        case 6:  # it is what it is, whatever the header says
            return Coded(body.data, "gzip", None, sound=False)
        case 7 if bombs:
            return _bomb(rng)
        case 8:
            half = len(body.data) // 2
            members = b"".join(_compress(rng, part, _GZIP) for part in (body.data[:half], body.data[half:]))
            return Coded(members, "gzip", None, sound=False, opaque=True)
    return _packed(rng, body.data, rng.choice(list(_SOUND)))


def _unpacked(data: bytes, wbits: int) -> bytes:
    try:
        return zlib.decompressobj(wbits).decompress(data)
    except zlib.error:
        return b""


def _packed(rng: Random, data: bytes, name: str) -> Coded:
    return Coded(_compress(rng, data, _SOUND[name]), name, _SOUND[name], sound=True)


def _compress(rng: Random, data: bytes, wbits: int) -> bytes:
    """Compress, now and then with a flush as a server does behind each event."""
    packer = zlib.compressobj(rng.choice([1, 6, 9, 0]), zlib.DEFLATED, wbits)
    if rng.random() < 0.5:
        return packer.compress(data) + packer.flush()
    out = b""
    step = rng.choice([1 + len(data) // 3, 100, 1000])
    for at in range(0, len(data), step):
        out += packer.compress(data[at : at + step]) + packer.flush(zlib.Z_SYNC_FLUSH)
    return out + packer.flush()


def _bomb(rng: Random) -> Coded:
    """A small body that unpacks to far more than an event may have."""
    wbits = rng.choice([_GZIP, _ZLIB])
    start = rng.choice([b"data: ", b": ", b"", b'data: {"error": "'])
    rest = rng.choice([b"a", b"\n", b": c\n", b'{"a": '])
    data = _unpacks_to_much(start, rest, wbits)
    if rng.random() < 0.2:
        packer = zlib.compressobj(9, zlib.DEFLATED, wbits)
        data = packer.compress(data) + packer.flush()
        name = {_GZIP: "gzip, gzip", _ZLIB: "deflate, deflate"}[wbits]
    else:
        name = {_GZIP: "gzip", _ZLIB: "deflate"}[wbits]
    return Coded(data, name, None, sound=False, readable=False)


@functools.cache
def _unpacks_to_much(start: bytes, rest: bytes, wbits: int) -> bytes:
    """A stream of `start` and then `_BOMB_MIB` of `rest`, made without holding that much."""
    packer = zlib.compressobj(9, zlib.DEFLATED, wbits)
    block = rest * ((1 << 20) // len(rest))
    out = [packer.compress(start)]
    out += [packer.compress(block) for _ in range(_BOMB_MIB)]
    return b"".join(out) + packer.flush()
