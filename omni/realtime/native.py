"""What the demo's native dialects share: notices, and chunks of answers, in the same words."""

from collections.abc import Sequence

from attrs import define, field

from omni.audio import OUTPUT_HZ, seconds
from omni.engine import ReplyChunk, UserTranscript
from omni.realtime.binary_sound import SoundWriter
from omni.realtime.dialect import (
    Frame,
    Notice,
    QueueDone,
    RecordingStopped,
    Stopped,
    Trouble,
    Waiting,
    event,
)

_FLOAT32_BYTES = 4


@define
class AnswerWriter:
    """Tells the chunks of answers where a socket has many: each counts its own from 0."""

    mouth: SoundWriter = field(factory=SoundWriter, init=False)
    _num_chunks: int = field(default=0, init=False)

    def begin(self) -> None:
        """Begin an answer; what is kept back of the one before is forgotten."""
        self._num_chunks = 0
        self.mouth.cut()

    def render(self, chunk: ReplyChunk) -> Sequence[Frame]:
        """Return the frames of *chunk*."""
        index = self._num_chunks
        self._num_chunks += 1
        audio, frames = self.mouth.told("audio_data", chunk.pcm, chunk.is_final)
        told = event(
            "chunk",
            chunk_index=index,
            text_delta=chunk.text,
            **audio,
            audio_sample_rate=OUTPUT_HZ,
            is_final=chunk.is_final,
            duration_ms=round(1000 * seconds(len(chunk.pcm) // _FLOAT32_BYTES, OUTPUT_HZ)),
        )
        return [*told, *frames]


def render_common(notice: Notice) -> Sequence[Frame]:
    """Return the frames of a notice that means the same on every native socket; none otherwise."""
    match notice:
        case Waiting(place=place, first=first):
            known = {
                "position": place.position,
                "estimated_wait_s": place.estimated_wait_s,
                "ticket_id": place.ticket_id,
                "queue_length": place.queue_length,
            }
            return event("queued" if first else "queue_update", **known)
        case QueueDone():
            return event("queue_done")
        case Stopped():
            return event("stopped")
        case RecordingStopped(recording_id=recording_id, reason=reason):
            return event("recording_stopped", recording_session_id=recording_id, reason=reason)
        case UserTranscript(text=text, final=final):
            return event("transcript", role="user", text=text, final=final)
        case Trouble(code=code, text=text, message=message):
            return event("error", error=text, message=message, code=code)
    return []
