"""Message <-> ZeroMQ parts: header | body | buffers. The only home of msgpack and strict rules.

A `Buffer` field (sound, a picture) is a part of its own and stands in the body as its index, so the
bytes are never packed. Parts above `ZERO_COPY_BYTES` should be sent without copying (see `link`).
"""

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any, cast

import msgpack
from attrs import evolve
from cattrs import BaseValidationError, transform_error
from cattrs.preconf.msgpack import make_converter

from omni.engine import Buffer
from omni.errors import ProtocolError
from omni.messages import KINDS, MESSAGES, PROTOCOL_VERSION, Header, Message, Stamp

Part = bytes | memoryview

#: pyzmq: below this, copying a part is faster than tracking it (measured on pyzmq 27: ~150 KB).
ZERO_COPY_BYTES = 65_536

_converter = make_converter(forbid_extra_keys=True, omit_if_default=True)
_buffers: ContextVar[list[Part]] = ContextVar("buffers")


def _exact(value: Any, kind: Any) -> Any:  # called by cattrs with whatever came
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise ValueError(f"expected {kind.__name__}, got {type(value).__name__}")
    return value


for _kind in (int, str, bytes, bool, float):
    _converter.register_structure_hook(_kind, _exact)


def _put_buffer(value: Part) -> int:
    parts = _buffers.get()
    parts.append(value)
    return len(parts) - 1


def _take_buffer(index: Any, _: Any) -> Part:
    parts = _buffers.get()
    if type(index) is not int or not 0 <= index < len(parts):
        raise ValueError(f"buffer {index!r} is not among the message's {len(parts)} buffers")
    return parts[index]


_converter.register_unstructure_hook(Buffer, _put_buffer)
_converter.register_structure_hook(Buffer, _take_buffer)


def encode_header(header: Header) -> bytes:
    """Return *header* as one part: a msgpack array in a fixed order."""
    stamps = [item for stamp in header.stamps for item in (stamp.hop, stamp.at_ns)]
    fields = [
        header.version,
        header.kind,
        header.session,
        header.seq,
        header.generation,
        stamps,
    ]
    return cast(bytes, msgpack.packb(fields))


def decode_header(part: Part) -> Header:
    """Return the header in *part*. Raises: ProtocolError; also for another protocol version."""
    try:
        version, *rest = msgpack.unpackb(part)
        if version != PROTOCOL_VERSION:
            raise ProtocolError(
                f"peer speaks protocol {version!r}, this is {PROTOCOL_VERSION}: "
                "run the same omni version everywhere"
            )
        kind, session, seq, generation, stamps = rest
        for value, expected in ((kind, str), (session, str), (seq, int), (generation, int)):
            _exact(value, expected)
        pairs = zip(stamps[::2], stamps[1::2], strict=True)
        return Header(
            kind=kind,
            session=session,
            seq=seq,
            generation=generation,
            stamps=tuple(Stamp(_exact(hop, str), _exact(at, int)) for hop, at in pairs),
        )
    except (ValueError, TypeError, msgpack.UnpackException) as exc:
        raise ProtocolError(f"malformed header: {exc}") from exc


def stamped(header: Header, hop: str, at_ns: int) -> Header:
    """Return *header* with one more time stamp."""
    return evolve(header, stamps=(*header.stamps, Stamp(hop, at_ns)))


def encode(header: Header, message: Message) -> list[Part]:
    """Return the parts of *message*: header, body, then its buffers. The header gets its kind."""
    token = _buffers.set([])
    try:
        body = msgpack.packb(_converter.unstructure(message))
        parts = _buffers.get()
    finally:
        _buffers.reset(token)
    return [encode_header(evolve(header, kind=KINDS[type(message)])), body, *parts]


def decode(header: Header, parts: Sequence[Part]) -> Message:
    """Return the message in *parts* (body, buffers; without the header).

    Raises: ProtocolError with the path of the wrong field; never anything else for bad bytes.
    """
    if (cls := MESSAGES.get(header.kind)) is None:
        raise ProtocolError(f"unknown message kind {header.kind!r}")
    if not parts:
        raise ProtocolError(f"{header.kind} has no body")
    token = _buffers.set(list(parts[1:]))
    try:
        return cast(Message, _converter.structure(msgpack.unpackb(parts[0]), cls))
    except BaseValidationError as exc:
        raise ProtocolError(f"{header.kind}: " + "; ".join(transform_error(exc))) from exc
    except (ValueError, TypeError, AttributeError, KeyError, msgpack.UnpackException) as exc:
        raise ProtocolError(f"malformed {header.kind}: {exc!r}") from exc
    finally:
        _buffers.reset(token)
