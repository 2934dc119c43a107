"""Reading frames: whatever comes is an event or an error, never an exception."""

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omni.realtime.binary_sound import SoundReader
from omni.realtime.openai.client_events import (
    CancelResponse,
    CreateResponse,
    Received,
    SessionUpdate,
    read_frame,
)
from omni.realtime.openai.config import SessionConfig, Transcription, TurnDetection

CONFIG = SessionConfig(model="a model")
KINDS = [
    "session.update",
    "input_audio_buffer.append",
    "input_audio_buffer.commit",
    "conversation.item.create",
    "conversation.item.truncate",
    "response.create",
    "response.cancel",
]
NAMES = [
    *["audio", "input", "output", "format", "type", "rate", "turn_detection", "transcription"],
    *["session", "item", "response", "content", "role", "text", "image_url", "id", "voice"],
    *["tools", "tool_choice", "output_modalities", "metadata", "max_output_tokens", "sound"],
    *["eagerness", "threshold", "audio_end_ms", "content_index", "call_id", "previous_item_id"],
]
WORDS = [
    *["realtime", "message", "user", "assistant", "input_audio", "input_text", "input_image"],
    *["server_vad", "semantic_vad", "audio/pcm", "audio/pcmu", "item_reference", "AAAA", "inf"],
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats() | st.text(max_size=8)
    | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=4)


def read(kind: str, config: SessionConfig = CONFIG, **fields: object) -> Received:
    frame = orjson.dumps({"type": kind, "event_id": "evt_1", **fields})
    return read_frame(frame, False, config, SoundReader())


def session_of(**session: object) -> SessionConfig:
    event = read("session.update", session=session).event
    assert isinstance(event, SessionUpdate)
    return event.config


@settings(deadline=None, max_examples=300)
@given(kind=st.sampled_from(KINDS), fields=OBJECTS)
def test_any_event_is_read_or_refused(kind: str, fields: dict[str, object]) -> None:
    received = read(kind, **fields)

    assert (received.event is None) != (received.error is None)
    assert received.event_id == "evt_1"


@settings(deadline=None)
@given(frame=st.binary(max_size=100), binary=st.booleans())
def test_any_bytes_are_read_or_refused(frame: bytes, binary: bool) -> None:
    received = read_frame(frame, binary, CONFIG, SoundReader())

    assert (received.event is None) != (received.error is None)


def test_what_is_null_is_switched_off_and_what_is_absent_stays() -> None:
    transcribed = session_of(audio={"input": {"transcription": {"model": "whisper-1"}}})

    off = read("session.update", transcribed, session={"audio": {"input": {"transcription": None}}})
    kept = read("session.update", transcribed, session={"instructions": "x"})

    assert transcribed.transcription == Transcription(model="whisper-1")
    assert isinstance(off.event, SessionUpdate) and isinstance(kept.event, SessionUpdate)
    assert off.event.config.transcription is None
    assert kept.event.config.transcription == Transcription(model="whisper-1")


@pytest.mark.parametrize(
    ("named", "language"),
    [
        ({"language": "en"}, "en"),
        ({"languages": ["zh"], "keywords": []}, "zh"),
        ({"languages": ["en", "zh"]}, ""),
    ],
)
def test_a_list_of_languages_with_one_in_it_names_it(
    named: dict[str, object], language: str
) -> None:
    """LiveKit sends lists for OpenAI's later models."""
    config = session_of(audio={"input": {"transcription": {"model": "gpt-transcribe", **named}}})

    assert config.transcription == Transcription(model="gpt-transcribe", language=language)


@pytest.mark.parametrize(
    ("eagerness", "silence_ms"), [("low", 1200), ("medium", 700), ("auto", 700), ("high", 350)]
)
def test_eagerness_becomes_silence(eagerness: str, silence_ms: int) -> None:
    detection = {"type": "semantic_vad", "eagerness": eagerness}

    config = session_of(audio={"input": {"turn_detection": detection}})

    assert config.turn_detection is not None
    assert config.turn_detection.silence_ms == silence_ms


def test_the_beta_says_the_same_in_a_flat_session() -> None:
    config = session_of(
        modalities=["text", "audio"],
        voice="nova",
        input_audio_format="g711_ulaw",
        output_audio_format="g711_alaw",
        input_audio_transcription={"model": "whisper-1"},
        turn_detection={"type": "server_vad", "silence_duration_ms": 800},
        max_response_output_tokens=100,
    )

    assert config == SessionConfig(
        model="a model",
        voice="nova",
        input_format="audio/pcmu",
        output_format="audio/pcma",
        transcription=Transcription(model="whisper-1"),
        turn_detection=TurnDetection(silence_duration_ms=800),
        max_output_tokens=100,
    )


def test_a_response_is_set_as_its_session_unless_it_says_otherwise() -> None:
    usual = read("response.create").event
    other = read(
        "response.create",
        response={
            "conversation": "none",
            "output_modalities": ["text"],
            "audio": {"output": {"voice": {"id": "nova"}, "format": {"type": "audio/pcmu"}}},
        },
    ).event

    assert isinstance(usual, CreateResponse) and isinstance(other, CreateResponse)
    assert usual.in_conversation and usual.input is None and usual.instructions is None
    assert (usual.output_modality, usual.voice) == ("audio", "default")
    assert not other.in_conversation
    assert (other.output_modality, other.voice, other.output_format) == (
        "text",
        "nova",
        "audio/pcmu",
    )


def test_a_cancel_may_name_its_response() -> None:
    assert read("response.cancel").event == CancelResponse(response_id=None)
    named = read("response.cancel", response_id="resp_1").event
    assert named == CancelResponse(response_id="resp_1")
