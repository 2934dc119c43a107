"""Which frames are read beside the event loop, and when the form of answers is chosen."""

import base64

import numpy as np
import orjson
import pytest

from omni.engine import Buffer, ReplyChunk, UnitResult
from omni.realtime.binary_sound import SoundWriter, is_slow
from omni.realtime.chat import ChatDialect
from omni.realtime.dialect import Dialect, Notice, Prefilled, UnitAnswered
from omni.realtime.duplex import DuplexDialect
from omni.realtime.half_duplex import HalfDuplexDialect
from omni.realtime.streaming import StreamingDialect
from omni.wav import wav_from_waveform

RAW = base64.b64encode(np.zeros(16_000, "<f4").tobytes()).decode()
WAV = base64.b64encode(wav_from_waveform(np.zeros(60_000, np.float32), 1000)).decode()


def frame(**fields: object) -> bytes:
    return orjson.dumps({"type": "audio_chunk", **fields})


def test_a_usual_chunk_is_read_at_once() -> None:
    assert not is_slow(frame(audio_base64=RAW, force_listen=True), False)
    assert not is_slow(b"S16L" + bytes(32_000), True)
    assert not is_slow(frame(text='a "short" prompt\n'), False)


@pytest.mark.parametrize("name", ["audio_base64", "ref_audio_base64", "audio"])
def test_a_file_that_is_resampled_is_read_in_a_thread(name: str) -> None:
    """155 KiB at 1 kHz become 8 MB, and held the loop for 50 ms."""
    assert is_slow(frame(**{name: WAV}), False)


def test_raw_sound_of_another_rate_is_read_in_a_thread() -> None:
    """196,000 samples at 1 kHz held the loop for 86 ms."""
    part = {"type": "audio", "data": RAW, "sample_rate": 1000}

    assert is_slow(frame(messages=[{"role": "user", "content": [part]}]), False)


def test_no_way_of_writing_hides_a_file() -> None:
    escaped = frame(audio_base64=WAV).replace(b"UklGR", rb"\u0055klGR")
    assert orjson.loads(escaped)["audio_base64"] == WAV

    assert is_slow(escaped, False)


def test_a_file_behind_many_words_is_found() -> None:
    assert is_slow(frame(system_content=[{"type": "text"}] * 60 + [{"data": WAV}]), False)
    assert is_slow(frame(words=[""] * 5000), False)  # it might be


def test_opus_is_read_in_a_thread() -> None:
    assert is_slow(b"OPUS" + bytes(200), True)


PIECE = ReplyChunk(pcm=Buffer(bytes(8)))
UNIT = UnitAnswered(
    result=UnitResult(is_listen=False, pcm=Buffer(bytes(8))), wall_clock_ms=1.0, sent_at=1.0
)


@pytest.mark.parametrize(
    ("dialect", "opening", "notice"),
    [
        (DuplexDialect("audio_duplex"), {"type": "prepare"}, UNIT),
        (HalfDuplexDialect(300.0), {"type": "prepare"}, PIECE),
        (ChatDialect(), {"messages": [{"role": "user", "content": "hi"}]}, PIECE),
        (
            StreamingDialect(),
            {"type": "prefill", "messages": [{"role": "user", "content": "hi"}]},
            PIECE,
        ),
    ],
    ids=["duplex", "half duplex", "chat", "older streaming"],
)
def test_a_second_opening_changes_no_answer_that_is_on_its_way(
    dialect: Dialect, opening: dict[str, object], notice: Notice
) -> None:
    """It is refused by the session; the form of the sound had changed all the same."""
    dialect.parse(orjson.dumps({**opening, "sound": "float32"}), False)
    dialect.render(Prefilled(num_messages=1, prompt_length=2))

    dialect.parse(orjson.dumps({**opening, "sound": "pcm16"}), False)

    _, sound = dialect.render(notice)
    assert sound.data[:4] == b"F32L"


def test_a_long_answer_is_written_beside_the_loop() -> None:
    """A minute of it as base64 in JSON held every session for 50 ms."""
    pcm = np.arange(100_000, dtype="<f4").tobytes()

    (frame,) = SoundWriter().whole("done", "audio_data", pcm, text="hi")

    assert frame.work is not None and not frame.binary
    told = orjson.loads(frame.work())
    assert (told["type"], told["text"]) == ("done", "hi")
    assert base64.b64decode(told["audio_data"]) == pcm
