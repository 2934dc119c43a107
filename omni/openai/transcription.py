"""`POST /v1/audio/transcriptions`: what a form says, and the five shapes of its answer."""

import math
import re
from collections.abc import Mapping, Sequence

from attrs import frozen

from omni.engine import ChatDone, TranscriptSegment
from omni.openai.errors import Refusal

FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
#: What a stream of events can stand for.
_STREAMED = ("json", "text")
_MAX_PROMPT_CHARS = 10_000
_LANGUAGE = re.compile(r"([a-z]{2,3})(?:[-_][a-z0-9]{1,8})*", re.IGNORECASE)
_FLAGS = {"true": True, "1": True, "false": False, "0": False, "": False}


@frozen(kw_only=True)
class TranscriptionOrder:
    """A request without its file. language: ISO code in small letters; "" for whatever it is."""

    language: str
    prompt: str
    temperature: float
    answer_format: str
    stream: bool


def read_form(form: Mapping[str, str], granularities: Sequence[str]) -> TranscriptionOrder:
    """Return the request in the text fields of a form. Raises: Refusal."""
    if set(granularities) - {"segment"}:
        text = "the model gives no times of words: only segment is there"
        raise Refusal(("timestamp_granularities",), text, "unsupported_value")
    answer_format = form.get("response_format") or "json"
    if answer_format not in FORMATS:
        allowed = ", ".join(FORMATS)
        raise Refusal(("response_format",), f"one of {allowed} is expected")
    stream = _FLAGS.get(form.get("stream", "").lower())
    if stream is None:
        raise Refusal(("stream",), "true or false is expected")
    if stream and answer_format not in _STREAMED:
        text = f"{answer_format} needs the whole recording: leave stream out"
        raise Refusal(("stream",), text, "unsupported_value")
    prompt = form.get("prompt", "")
    if len(prompt) > _MAX_PROMPT_CHARS:
        raise Refusal(("prompt",), f"{len(prompt)} characters are above {_MAX_PROMPT_CHARS}")
    return TranscriptionOrder(
        language=_language(form.get("language", "")),
        prompt=prompt,
        temperature=_temperature(form.get("temperature") or "0"),
        answer_format=answer_format,
        stream=stream,
    )


def _language(text: str) -> str:
    if not text:
        return ""
    match = _LANGUAGE.fullmatch(text)
    if match is None:
        raise Refusal(("language",), "an ISO 639 code is expected, like en")
    return match[1].lower()


def _temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise Refusal(("temperature",), "a number from 0 to 1 is expected")
    return value


# --- answers -----------------------------------------------------------------------------------


def json_answer(done: ChatDone) -> dict[str, object]:
    """Return the answer in the format json."""
    return {"text": done.text, **_usage(done)}


def verbose_answer(
    done: ChatDone, segments: Sequence[TranscriptSegment], language: str, duration_s: float
) -> dict[str, object]:
    """Return the answer in the format verbose_json; what no engine gives is null."""
    listed: list[dict[str, object]] = [
        {
            "id": number,
            "seek": 0,
            "start": round(segment.start_s, 3),
            "end": round(segment.end_s, 3),
            "text": segment.text,
            "tokens": [],
            "temperature": None,
            "avg_logprob": None,
            "compression_ratio": None,
            "no_speech_prob": None,
        }
        for number, segment in enumerate(segments)
    ]
    return {
        "task": "transcribe",
        "language": language,
        "duration": round(duration_s, 3),
        "text": done.text,
        "segments": listed,
        "usage": {"type": "duration", "seconds": math.ceil(duration_s)},
    }


def srt_answer(segments: Sequence[TranscriptSegment]) -> str:
    """Return the answer as SubRip subtitles."""
    cues = [
        f"{number}\n{_time(s.start_s, ',')} --> {_time(s.end_s, ',')}\n{_line(s.text)}\n"
        for number, s in enumerate(segments, 1)
    ]
    return "\n".join(cues) + "\n" if cues else ""


def vtt_answer(segments: Sequence[TranscriptSegment]) -> str:
    """Return the answer as WebVTT subtitles."""
    cues = [
        f"{_time(s.start_s, '.')} --> {_time(s.end_s, '.')}\n{_line(s.text)}\n" for s in segments
    ]
    return "\n".join(["WEBVTT\n", *cues]) + "\n"


def delta_event(text: str) -> dict[str, object]:
    """Return the event with further words."""
    return {"type": "transcript.text.delta", "delta": text}


def done_event(done: ChatDone) -> dict[str, object]:
    """Return the last event."""
    return {"type": "transcript.text.done", **json_answer(done)}


def _usage(done: ChatDone) -> dict[str, object]:
    """Return `usage`, where the engine counts tokens at all."""
    if not done.input_tokens:
        return {}
    num_audio = done.input_audio_tokens
    usage = {
        "type": "tokens",
        "input_tokens": done.input_tokens,
        "input_token_details": {
            "text_tokens": done.input_tokens - num_audio,
            "audio_tokens": num_audio,
        },
        "output_tokens": done.generated_tokens,
        "total_tokens": done.input_tokens + done.generated_tokens,
    }
    return {"usage": usage}


def _line(text: str) -> str:
    """Return *text* on one line and without the arrow, which would begin another cue."""
    return " ".join(text.split()).replace("-->", "->")


def _time(at_s: float, mark: str) -> str:
    """Return a time as subtitles write it: 01:02:03,456."""
    total_ms = round(at_s * 1000)
    minutes, ms = divmod(total_ms, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{ms // 1000:02}{mark}{ms % 1000:03}"
