"""The journal: what is written is read again, up to the first byte that is wrong."""

import os
import struct
import zlib
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omni.engine import (
    AudioChunk,
    ChatDone,
    ChatMessage,
    ChatRequest,
    Close,
    Failed,
    Generating,
    Part,
    PrefillDone,
    Prepared,
    PrepareDuplex,
    PrepareHalfDuplex,
    ReplyChunk,
    SessionEvent,
    SessionInput,
    SpeakRequest,
    StopAnswer,
    ToolCall,
    TranscribeRequest,
    TranscriptSegment,
    TurnDone,
    UnitResult,
    UserTranscript,
    VadState,
)
from omni.errors import ProtocolError
from omni.recording.journal import (
    MAGIC,
    Began,
    Diagnosed,
    Ended,
    Gap,
    Item,
    JournalWriter,
    Opened,
    Record,
    is_live,
    read_journal,
)
from tests.recording.stage import answer, picture, tone

BEGAN = Began(
    recording_id="r", client_id="c", request_type="omni_duplex", worker=0, started_at=1.5
)
MESSAGE = ChatMessage(
    role="user",
    parts=(
        Part(kind="text", text="你好"),
        Part(kind="audio", data=tone(0.1)),
        Part(kind="image", data=picture()),
    ),
)
ITEMS: list[Item] = [
    BEGAN,
    Opened(timeout_s=30.0),
    PrepareDuplex(mode="omni_duplex", voice=tone(0.2), tts_voice=tone(0.1)),
    PrepareHalfDuplex(system=(Part(kind="audio", data=tone(0.1)),)),
    ChatRequest(messages=(MESSAGE,), voice=tone(0.1)),
    SpeakRequest(text="read this", voice=tone(0.1)),
    TranscribeRequest(pcm=tone(0.1)),
    AudioChunk(pcm=tone(1.0), frames=(picture(), picture("PNG")), force_listen=True),
    StopAnswer(),
    Close(),
    Prepared(prompt_length=7),
    UnitResult(is_listen=False, text="hi", pcm=answer(1.0), token_ids=(5, 6, 7)),
    UserTranscript(text="hello"),
    VadState(speaking=True),
    Generating(speech_duration_ms=900),
    PrefillDone(input_tokens=3),
    ReplyChunk(text="a", pcm=answer(0.5)),
    TranscriptSegment(start_s=0.0, end_s=1.0, text="so"),
    TurnDone(turn_index=1, text="a"),
    ToolCall(id="call_1", name="weather", arguments='{"city": "Oslo"}'),
    ChatDone(text="a", input_tokens=1, generated_tokens=2),
    Failed(code="generation_failed", message="no"),
    Diagnosed({"event": "gap", "gap_ms": 3.5}),
    Gap(num_records=2, num_bytes=9),
    Ended(),
]


def write(path: Path, items: list[Item]) -> list[int]:
    """Write a journal, and return where each record ends."""
    writer = JournalWriter.create(path)
    ends, at = [], len(MAGIC)
    for number, item in enumerate(items):
        at += writer.write(Record(number * 0.25, number, item))
        ends.append(at)
    writer.close()
    return ends


def test_every_kind_of_record_comes_back_as_it_was(tmp_path: Path) -> None:
    kinds = {type(item) for item in ITEMS}
    assert {*get_args(SessionInput), *get_args(SessionEvent)} <= kinds

    write(tmp_path / "j", ITEMS)

    records = list(read_journal(tmp_path / "j"))
    assert [record.item for record in records] == ITEMS
    assert [record.number for record in records] == list(range(len(ITEMS)))
    assert [record.at_s for record in records] == [n * 0.25 for n in range(len(ITEMS))]


def test_sound_is_kept_in_half_its_bytes(tmp_path: Path) -> None:
    pcm = tone(10.0)

    write(tmp_path / "j", [AudioChunk(pcm=pcm)])

    assert (tmp_path / "j").stat().st_size < len(pcm) / 2 + 200


def test_a_cut_journal_is_read_up_to_its_last_whole_record(tmp_path: Path) -> None:
    items: list[Item] = [BEGAN, VadState(speaking=True), UserTranscript(text="x"), Ended()]
    ends = write(tmp_path / "whole", items)
    content = (tmp_path / "whole").read_bytes()

    for size in range(len(MAGIC), len(content) + 1):
        (tmp_path / "cut").write_bytes(content[:size])
        found = [record.item for record in read_journal(tmp_path / "cut")]
        assert found == items[: sum(end <= size for end in ends)]


def test_a_journal_is_read_up_to_its_first_wrong_byte(tmp_path: Path) -> None:
    items: list[Item] = [BEGAN, VadState(speaking=True), UserTranscript(text="x")]
    ends = write(tmp_path / "j", items)
    content = bytearray((tmp_path / "j").read_bytes())

    content[ends[0] + 20] ^= 1
    (tmp_path / "j").write_bytes(content)

    assert [record.item for record in read_journal(tmp_path / "j")] == [BEGAN]


@settings(max_examples=60)
@given(garbage=st.binary(max_size=300))
def test_garbage_behind_a_journal_does_no_harm(tmp_path: Path, garbage: bytes) -> None:
    path = tmp_path / os.urandom(8).hex()
    write(path, [BEGAN, Ended()])
    with open(path, "ab") as file:
        file.write(garbage)

    assert [record.item for record in read_journal(path)] == [BEGAN, Ended()]


def test_what_is_no_journal_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "j").write_bytes(b"RIFF....WAVE")

    with pytest.raises(ProtocolError, match="not a journal"):
        list(read_journal(tmp_path / "j"))


def test_a_record_of_a_later_version_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "j", [BEGAN, Gap(num_records=1, num_bytes=1), Ended()])
    content = (tmp_path / "j").read_bytes()
    writer = JournalWriter.create(tmp_path / "later")
    writer.close()

    later = content.replace(b'"num_records"', b'"num_recordz"')
    (tmp_path / "later").write_bytes(_with_right_checksums(later))

    assert [record.item for record in read_journal(tmp_path / "later")] == [BEGAN, Ended()]


def _with_right_checksums(content: bytes) -> bytes:

    at, fixed = len(MAGIC), content[: len(MAGIC)]
    while at < len(content):
        (size, _) = struct.unpack_from("<II", content, at)
        payload = content[at + 8 : at + 8 + size]
        fixed += struct.pack("<II", size, zlib.crc32(payload)) + payload
        at += 8 + size
    return fixed


def test_a_journal_is_live_while_it_is_held(tmp_path: Path) -> None:
    path = tmp_path / "j"
    assert not is_live(path)

    writer = JournalWriter.create(path)
    assert is_live(path)

    writer.close()
    assert not is_live(path)


def test_a_journal_is_never_written_over(tmp_path: Path) -> None:
    write(tmp_path / "j", [BEGAN])

    with pytest.raises(FileExistsError):
        JournalWriter.create(tmp_path / "j")
