"""`POST /v1/audio/speech`: what a request says, and the events of its stream."""

from attrs import frozen

from omni.engine import ChatDone, SpeakRequest
from omni.openai.chat import read_voice
from omni.openai.errors import Refusal
from omni.realtime.fields import Fields

#: OpenAI's own bounds.
MAX_INPUT_CHARS = 4096
_MIN_SPEED, _MAX_SPEED = 0.25, 4.0
FORMATS = ("mp3", "opus", "aac", "flac", "wav", "pcm")
_STREAM_FORMATS = ("audio", "sse")


@frozen(kw_only=True)
class SpeechOrder:
    """A request, read. request: without its voice. is_events: server-sent events are wanted."""

    request: SpeakRequest
    voice: str
    audio_format: str
    speed: float
    is_events: bool


def read_order(fields: Fields) -> SpeechOrder:
    """Return the request in *fields*; unknown keys are ignored. Raises: FieldError."""
    text = fields.text("input", max_chars=MAX_INPUT_CHARS)
    if not text.strip():
        raise Refusal(("input",), "a text is expected", "missing_required_parameter")
    return SpeechOrder(
        request=SpeakRequest(
            text=text, instructions=fields.text("instructions", max_chars=MAX_INPUT_CHARS)
        ),
        voice=read_voice(fields),
        audio_format=fields.choice("response_format", "mp3", FORMATS),
        speed=fields.number("speed", 1.0, _MIN_SPEED, _MAX_SPEED),
        is_events=fields.choice("stream_format", "audio", _STREAM_FORMATS) == "sse",
    )


def delta_event(audio: str) -> dict[str, object]:
    """Return the event with a piece of the sound file, as base64."""
    return {"type": "speech.audio.delta", "audio": audio}


def done_event(done: ChatDone) -> dict[str, object]:
    """Return the last event."""
    num_output = done.generated_tokens + done.speech_tokens
    usage = {
        "input_tokens": done.input_tokens,
        "output_tokens": num_output,
        "total_tokens": done.input_tokens + num_output,
    }
    return {"type": "speech.audio.done", "usage": usage}
