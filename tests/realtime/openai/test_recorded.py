"""A call is kept as a hands-free session, however its turns end."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from attrs import define, field

from omni.engine import (
    Buffer,
    ChatDone,
    PrefillDone,
    ReplyChunk,
    SessionEvent,
    SessionInput,
    UserTranscript,
)
from omni.messages import RequestType
from omni.realtime.openai.call_record import CallRecord
from omni.realtime.openai.items import Message, Text
from omni.recording.journal import Item, Record
from omni.recording.layout import SUBFOLDERS
from omni.recording.recorder import RecordingCounters
from omni.recording.turn_files import Document, TurnFiles

SECOND = Buffer(np.full(16_000, 0.25, "<f4").tobytes())
SPOKEN = Buffer(bytes(24_000 * 4))


@define
class Kept:
    """Recordings of which the records are kept, and made into files at once."""

    files: TurnFiles
    items: list[Item] = field(factory=list)
    request_type: RequestType | None = None
    recording_id: str = "sess_1"
    trouble: str = ""
    counters: RecordingCounters = field(factory=RecordingCounters)
    is_closed: bool = False

    def start(self, client_id: str, request_type: RequestType, worker: str) -> "Kept":
        assert self.request_type is None, "one call, one recording"
        self.request_type = request_type
        return self

    def opened(self, timeout_s: float | None) -> None:
        """Nothing depends on it."""

    def heard(self, input: SessionInput) -> None:
        self._keep(input)

    def said(self, event: SessionEvent) -> None:
        self._keep(event)

    def diagnosed(self, record: dict[str, object]) -> None:
        """Nothing of OpenAI's is a diagnosis."""

    def close(self) -> None:
        self.is_closed = True

    def turns(self) -> list[Document]:
        turns: list[Document] = self.files.document()["turns"]
        return turns

    def _keep(self, item: Item) -> None:
        self.files.take(Record(float(len(self.items)), 0, item))
        self.items.append(item)


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    for name in SUBFOLDERS:
        (tmp_path / name).mkdir()
    return Kept(TurnFiles(tmp_path))


def answer(record: CallRecord, *words: str) -> None:
    """Have an engine answer."""
    record.said(PrefillDone(input_tokens=1))
    for word in words:
        record.said(ReplyChunk(text=word, pcm=SPOKEN))
    record.said(ChatDone(text="".join(words), input_tokens=1, generated_tokens=len(words)))


def test_a_spoken_turn_has_its_sound_and_its_answer(kept: Kept) -> None:
    record = CallRecord(recordings=kept, client_id="sess_1")

    record.spoke(True)
    record.heard(SECOND)
    record.spoke(False)
    record.asked(1000)
    record.said(UserTranscript(text="hello"))
    answer(record, "one ", "two")
    record.close()

    (turn,) = kept.turns()
    assert kept.request_type == "half_duplex_audio" and kept.is_closed
    assert (turn["input"]["text"], turn["input"]["duration_ms"]) == ("hello", 1000)
    assert turn["output"]["text"] == "one two" and turn["output"]["audio_duration_ms"] == 2000
    for name in (turn["input"]["audio"], turn["output"]["audio"]):
        assert (kept.files.folder / name).stat().st_size > 16_000


def test_a_written_turn_has_its_words(kept: Kept) -> None:
    record = CallRecord(recordings=kept, client_id="sess_1")

    record.wrote(Message(id="a", role="user", content=[Text("one")]))
    record.wrote(Message(id="b", role="system", content=[Text("be brief")]))
    record.asked(0)
    answer(record, "two")

    (turn,) = kept.turns()
    assert (turn["input"]["text"], turn["output"]["text"]) == ("one", "two")


def test_a_cut_answer_has_what_was_said(kept: Kept) -> None:
    record = CallRecord(recordings=kept, client_id="sess_1")

    record.asked(0)
    record.said(ReplyChunk(text="one "))
    record.ended("one")
    record.asked(0)
    answer(record, "two")

    assert [turn["output"]["text"] for turn in kept.turns()] == ["one", "two"]


@pytest.mark.parametrize(
    "nothing",
    [
        lambda record: record.spoke(False),
        lambda record: record.close(),
        lambda record: record.said(PrefillDone(input_tokens=1)),
    ],
)
def test_a_call_in_which_nothing_happens_leaves_nothing(
    kept: Kept, nothing: Callable[[CallRecord], None]
) -> None:
    nothing(CallRecord(recordings=kept, client_id="sess_1"))

    assert kept.request_type is None
