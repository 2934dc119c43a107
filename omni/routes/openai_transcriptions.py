"""`POST /v1/audio/transcriptions`: the sound of an uploaded file, written down."""

from aiohttp import web
from aiohttp.web_request import FileField
from attrs import define

from omni.audio import INPUT_HZ, seconds
from omni.containers import read_sound
from omni.engine import Buffer, ChatDone, SessionEvent, TranscribeRequest, TranscriptSegment
from omni.errors import ClientError, NotFound, ProtocolError, TooLarge
from omni.openai.errors import Refusal
from omni.openai.transcription import (
    FORMATS,
    TranscriptionOrder,
    delta_event,
    done_event,
    json_answer,
    read_form,
    srt_answer,
    verbose_answer,
    vtt_answer,
)
from omni.realtime.media import MAX_SPEECH_S, checked_sound
from omni.routes.describe import (
    FILE,
    FLAG,
    JSON,
    NUMBER,
    TEXT,
    Body,
    Reply,
    between,
    describe,
    list_of,
    one_of,
    record,
)
from omni.routes.errors import json_reply
from omni.routes.keys import SOUND_FILES
from omni.routes.openai_models import TAG
from omni.routes.openai_stream import EVENT_STREAM, Outflow, stream_turn
from omni.routes.openai_turn import Gathered, Turn
from omni.routes.served import served

_FORM = "multipart/form-data"
_FLOAT32_BYTES = 4
_GRANULARITIES = ("timestamp_granularities[]", "timestamp_granularities")
_BODY = record(
    {
        "file": FILE,
        "model": TEXT,
        "language": TEXT,
        "prompt": TEXT,
        "response_format": one_of(*FORMATS),
        "temperature": between(NUMBER, 0, 1),
        "timestamp_granularities[]": list_of(one_of("segment")),
        "stream": FLAG,
    },
    optional=[
        "model",
        "language",
        "prompt",
        "response_format",
        "temperature",
        "timestamp_granularities[]",
        "stream",
    ],
)


@describe(
    "Write a recording down",
    tag=TAG,
    help=f"Any sound or video file of up to {MAX_SPEECH_S / 60:.0f} minutes. Subtitles and "
    "segments follow the pauses of the speech; there are no times of words.",
    body=Body(schema=_BODY, content_types=(_FORM,)),
    reply=Reply(content_types=(JSON, "text/plain", "text/vtt", EVENT_STREAM)),
    errors=(401, 429, 500, 503),
)
async def post_transcriptions(request: web.Request) -> web.StreamResponse:
    """Write one recording down."""
    order, pcm = await _read(request)
    turn = Turn(
        request=request,
        input=TranscribeRequest(
            pcm=pcm,
            language=order.language,
            prompt=order.prompt,
            temperature=order.temperature,
        ),
    )
    if order.stream:
        outflow = Outflow(request, EVENT_STREAM)
        return await stream_turn(turn, _Stream(outflow=outflow), outflow)
    written = Gathered()
    await turn.run(written)
    duration_s = seconds(len(pcm) // _FLOAT32_BYTES, INPUT_HZ)
    return await _reply(request, order, written, duration_s)


@describe(
    "Translate a recording",
    tag=TAG,
    help="Not served: transcribe it, and have a chat translate the text.",
    reply=(),
    errors=(404,),
)
async def post_translations(request: web.Request) -> web.StreamResponse:
    """Say that there are none."""
    raise NotFound(
        "recordings are not translated here: transcribe with /v1/audio/transcriptions, then ask "
        "/v1/chat/completions for the translation"
    )


async def _read(request: web.Request) -> tuple[TranscriptionOrder, Buffer]:
    """Return what the form says, and the sound of its file. Raises: ClientError."""
    if request.content_type != _FORM:
        raise ProtocolError(f"{_FORM} with a file is expected, got {request.content_type}")
    try:
        form = await request.post()
    except (ValueError, LookupError, AssertionError, RuntimeError) as exc:  # of a broken form
        raise ProtocolError(f"the form cannot be read: {exc}") from exc
    texts = {name: value for name, value in form.items() if isinstance(value, str)}
    wanted = [item for name in _GRANULARITIES for item in form.getall(name, [])]
    order = read_form(texts, [str(item) for item in wanted])
    file = form.get("file")
    if not isinstance(file, FileField):
        raise Refusal(("file",), "a file is expected", "missing_required_parameter")
    return order, await request.app[SOUND_FILES].run(lambda: _sound(file))


def _sound(file: FileField) -> Buffer:
    try:
        samples = read_sound(file.file, MAX_SPEECH_S)
    except TooLarge:
        raise
    except ClientError as exc:
        raise Refusal(("file",), str(exc), "invalid_audio") from exc
    return checked_sound(samples, INPUT_HZ, MAX_SPEECH_S)


async def _reply(
    request: web.Request, order: TranscriptionOrder, written: Gathered, duration_s: float
) -> web.Response:
    done = written.done
    segments = [event for event in written.events if isinstance(event, TranscriptSegment)]
    match order.answer_format:
        case "text":
            return web.Response(text=done.text + "\n")
        case "srt":
            return web.Response(text=srt_answer(segments))
        case "vtt":
            return web.Response(text=vtt_answer(segments), content_type="text/vtt")
        case "verbose_json":
            language = order.language or await _only_language(request)
            return json_reply(verbose_answer(done, segments, language, duration_s))
    return json_reply(json_answer(done))


async def _only_language(request: web.Request) -> str:
    """Return the engine's language, if it knows but one."""
    languages = (await served(request.app)).languages
    return languages[0] if len(languages) == 1 else "unknown"


@define(kw_only=True)
class _Stream:
    """Passes the segments on as words that follow one another."""

    outflow: Outflow
    streams: bool = True
    _has_begun: bool = False

    async def waits(self) -> None:
        """Say so in a comment, which clients pass over."""
        await self.outflow.write(b": queued\n\n")

    async def begins(self) -> None:
        """Send the headers."""
        await self.outflow.open()

    async def hears(self, event: SessionEvent) -> None:
        """Send it."""
        match event:
            case TranscriptSegment(text=text):
                await self.outflow.send(delta_event(f" {text}" if self._has_begun else text))
                self._has_begun = True
            case ChatDone():
                await self.outflow.send(done_event(event))
