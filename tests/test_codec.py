"""Messages <-> parts: headers, buffers, and bytes that are none of ours."""

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from omni.codec import (
    MAX_STAMPS,
    VersionMismatch,
    decode,
    decode_header,
    encode,
    encode_header,
    relay_header,
    stamped,
)
from omni.engine import AudioChunk, Buffer
from omni.errors import ProtocolError
from omni.messages import MESSAGES, PROTOCOL_VERSION, Header, Heartbeat, Stamp

HEADER = Header(
    kind="audio_chunk",
    session="s_0123456789ab",
    seq=7,
    generation=1_700_000_000_000,
    ack=3,
    stamps=(Stamp("web", 2**60),),
)


def test_a_header_comes_back_as_it_was() -> None:
    assert decode_header(encode_header(HEADER)) == HEADER


def test_a_broker_reads_and_stamps_a_header_and_changes_nothing_else() -> None:
    relayed = relay_header(encode_header(HEADER), "broker", 99)

    assert (relayed.kind, relayed.session) == (HEADER.kind, HEADER.session)
    assert relayed.generation == HEADER.generation
    assert decode_header(relayed.part) == stamped(HEADER, "broker", 99)


def test_stamps_are_bounded() -> None:
    part = encode_header(HEADER)

    for at_ns in range(2 * MAX_STAMPS):
        part = relay_header(part, "broker", at_ns).part

    assert len(decode_header(part).stamps) == MAX_STAMPS


def test_another_version_is_told_apart_and_named() -> None:
    part = msgpack.packb([PROTOCOL_VERSION + 1, "whatever", {"it": "holds"}])

    said = f"protocol {PROTOCOL_VERSION + 1}, this is {PROTOCOL_VERSION}"
    with pytest.raises(VersionMismatch, match=said) as caught:
        decode_header(part)

    assert caught.value.version == PROTOCOL_VERSION + 1


GOOD = [PROTOCOL_VERSION, "heartbeat", "s", 1, 2, 3, ["web", 5]]


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param(None, id="no array"),
        pytest.param(5, id="a number"),
        pytest.param({"version": 1}, id="a map"),
        pytest.param([], id="empty"),
        pytest.param(["1", *GOOD[1:]], id="version is a text"),
        pytest.param([True, *GOOD[1:]], id="version is a bool"),
        pytest.param(GOOD[:6], id="too short"),
        pytest.param([*GOOD, 0], id="too long"),
        pytest.param([1, 5, *GOOD[2:]], id="kind is a number"),
        pytest.param([1, b"heartbeat", *GOOD[2:]], id="kind is bytes"),
        pytest.param([*GOOD[:2], None, *GOOD[3:]], id="session is nil"),
        pytest.param([*GOOD[:3], 1.0, *GOOD[4:]], id="seq is a float"),
        pytest.param([*GOOD[:4], "2", *GOOD[5:]], id="generation is a text"),
        pytest.param([*GOOD[:5], False, GOOD[6]], id="ack is a bool"),
        pytest.param([*GOOD[:6], "stamps"], id="stamps are a text"),
        pytest.param([*GOOD[:6], {"web": 1}], id="stamps are a map"),
        pytest.param([*GOOD[:6], ["web"]], id="a stamp without a time"),
        pytest.param([*GOOD[:6], [5, 5]], id="a hop that is a number"),
        pytest.param([*GOOD[:6], ["web", "5"]], id="a time that is a text"),
        pytest.param([*GOOD[:6], ["web", 5] * (MAX_STAMPS + 1)], id="too many stamps"),
    ],
)
def test_a_malformed_header_is_a_protocol_error(fields: object) -> None:
    part = msgpack.packb(fields)

    with pytest.raises(ProtocolError):
        decode_header(part)
    with pytest.raises(ProtocolError):
        relay_header(part, "broker", 1)


@pytest.mark.parametrize("part", [b"", b"\xc1", b"\x97\x01", b"\x01\x02", b"\xff" * 40])
def test_bytes_that_are_not_msgpack_are_a_protocol_error(part: bytes) -> None:
    with pytest.raises(ProtocolError):
        relay_header(part, "broker", 1)


def test_buffers_are_parts_of_their_own_and_never_packed() -> None:
    pcm, jpeg = Buffer(b"p" * 64_000), Buffer(b"j" * 50_000)

    header, body, *buffers = encode(HEADER, AudioChunk(pcm=pcm, frames=(jpeg, jpeg)))

    assert [item is expected for item, expected in zip(buffers, (pcm, jpeg, jpeg))] == [True] * 3
    assert len(header) + len(body) < 200


def test_the_header_gets_the_kind_of_its_message() -> None:
    header, *_ = encode(Header(kind=""), Heartbeat(steps=3))

    assert decode_header(header).kind == "heartbeat"


@pytest.mark.parametrize("index", [-1, 1, 99, "0", None, 0.0, True])
def test_a_buffer_that_is_not_there_is_a_protocol_error(index: object) -> None:
    body = msgpack.packb({"pcm": index})

    with pytest.raises(ProtocolError, match="pcm"):
        decode(Header(kind="audio_chunk"), [body, b"\0\0\0\0"])


def test_an_unknown_kind_is_a_protocol_error() -> None:
    with pytest.raises(ProtocolError, match="unknown message kind 'Heartbeat'"):
        decode(Header(kind="Heartbeat"), [b"\x80"])


def test_a_message_without_a_body_is_a_protocol_error() -> None:
    with pytest.raises(ProtocolError, match="no body"):
        decode(Header(kind="heartbeat"), [])


@hypothesis_settings(max_examples=400, deadline=None, derandomize=True)
@given(kind=st.sampled_from(sorted(MESSAGES)), body=st.binary(max_size=60))
@example(kind="leased", body=b"\x93\x01\x02\x03")
@example(kind="hello", body=msgpack.packb({"leases": 5}))
@example(kind="hello", body=msgpack.packb({"leases": [[]]}))
@example(kind="status", body=msgpack.packb({"eta": {"samples": 3}}))
def test_any_bytes_are_a_message_or_a_protocol_error(kind: str, body: bytes) -> None:
    try:
        message = decode(Header(kind=kind), [body])
    except ProtocolError:
        return
    assert isinstance(message, MESSAGES[kind])


NESTED = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@hypothesis_settings(max_examples=400, deadline=None, derandomize=True)
@given(kind=st.sampled_from(sorted(MESSAGES)), data=st.data())
def test_wrong_values_under_the_right_names_are_a_protocol_error(
    kind: str, data: st.DataObject
) -> None:
    names = [item.name for item in MESSAGES[kind].__attrs_attrs__]
    fields = data.draw(st.fixed_dictionaries({}, optional={name: NESTED for name in names}))

    try:
        message = decode(Header(kind=kind), [msgpack.packb(fields), b"buffer"])
    except ProtocolError:
        return
    assert isinstance(message, MESSAGES[kind])
