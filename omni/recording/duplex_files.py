"""The files of a full-duplex session, made from its journal: one chunk after the other."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import define, field

from omni.audio import INPUT_HZ, OUTPUT_HZ, seconds
from omni.engine import AudioChunk, Failed, Prepared, UnitResult, UserTranscript
from omni.recording.journal import Record
from omni.recording.layout import AI_AUDIO, USER_AUDIO, USER_FRAMES
from omni.recording.media import write_picture, write_wav
from omni.recording.sound import waveform_of

#: A part of recording.json.
Document = dict[str, Any]

#: Length of a chunk where recording.json names none.
USUAL_CHUNK_MS = 1000


@define
class DuplexFiles:
    """Writes what each record holds; `document` says what came of it."""

    folder: Path
    _chunks: dict[int, Document] = field(factory=dict, init=False)
    _heard_at: dict[int, float] = field(factory=dict, init=False)  # of chunks not answered yet
    _transcripts: list[Document] = field(factory=list, init=False)
    _errors: list[Document] = field(factory=list, init=False)
    _turn: int = field(default=0, init=False)
    _is_speaking: bool = field(default=False, init=False)
    _chunk_ms: int = field(default=USUAL_CHUNK_MS, init=False)

    def take(self, record: Record) -> None:
        """Add one record. Raises: OSError."""
        match record.item:
            case AudioChunk() as chunk:
                self._add_chunk(record, chunk)
            case UnitResult() as result:
                self._add_result(record, result)
            case Prepared(chunk_ms=chunk_ms):
                self._chunk_ms = chunk_ms
            case UserTranscript(text=text, final=True):
                self._transcripts.append({"ts_ms": _ms(record.at_s), "text": text})
            case Failed(code=code, message=message):
                error = {"ts_ms": _ms(record.at_s), "code": code, "message": message}
                self._errors.append(error)

    def document(self) -> Document:
        """Return what recording.json says beyond what all sessions have."""
        extra: Document = {"transcripts": self._transcripts, "errors": self._errors}
        chunks = [self._chunks[index] for index in sorted(self._chunks)]
        if self._chunk_ms != USUAL_CHUNK_MS:
            extra["chunk_ms"] = self._chunk_ms
        return {"chunks": chunks, **{name: what for name, what in extra.items() if what}}

    def _add_chunk(self, record: Record, chunk: AudioChunk) -> None:
        index = record.number
        name = f"{USER_AUDIO}/{index:03d}.wav"
        write_wav(self.folder / name, waveform_of(chunk.pcm), INPUT_HZ)
        entry = self._entry(index, record.at_s)
        entry["user_audio"] = name
        self._heard_at[index] = record.at_s
        if chunk.frames:
            frame = f"{USER_FRAMES}/{index:03d}.jpg"
            if write_picture(self.folder / frame, chunk.frames[0]):
                entry["user_frame"] = frame

    def _add_result(self, record: Record, result: UnitResult) -> None:
        index = record.number
        entry = self._entry(index, record.at_s)
        heard_at_s = self._heard_at.pop(index, record.at_s)
        self._turn += self._is_speaking and (result.is_listen or result.interrupted)
        told: Document = {
            "mode": "LISTEN" if result.is_listen else "SPEAK",
            "timing": _timing(result, record.at_s - heard_at_s),
        }
        if result.text:
            told["text"] = result.text
        if len(result.pcm) and not result.is_listen:
            told |= self._write_answer(index, result)
        if result.end_of_turn:
            told["end_of_turn"] = True
        if result.token_ids:
            told["token_ids"] = list(result.token_ids)
        self._is_speaking = not (result.is_listen or result.end_of_turn)
        self._turn += result.end_of_turn and not result.is_listen
        entry["result"] = told

    def _write_answer(self, index: int, result: UnitResult) -> Mapping[str, Any]:
        name = f"{AI_AUDIO}/turn_{self._turn}_chunk_{index:03d}.wav"
        samples = waveform_of(result.pcm)
        write_wav(self.folder / name, samples, OUTPUT_HZ)
        duration_ms = round(seconds(samples.size, OUTPUT_HZ) * 1000, 1)
        return {"ai_audio": name, "ai_audio_duration_ms": duration_ms}

    def _entry(self, index: int, at_s: float) -> Document:
        return self._chunks.setdefault(index, {"index": index, "receive_ts_ms": _ms(at_s)})


def _timing(result: UnitResult, wall_clock_s: float) -> Document:
    costs = result.costs
    return {
        "prefill_ms": costs.prefill_ms,
        "llm_ms": costs.llm_ms,
        "tts_prep_ms": costs.tts_prep_ms,
        "tts_ms": costs.tts_ms,
        "token2wav_ms": costs.token2wav_ms,
        "all_ms": costs.all_ms,
        "wall_clock_ms": _ms(wall_clock_s),
        "n_tokens": result.n_tokens,
        "n_tts_tokens": result.n_tts_tokens,
        "kv_cache_length": result.kv_cache_length,
        "vision_slices": result.vision_slices,
        "vision_tokens": result.vision_tokens,
    }


def _ms(duration_s: float) -> float:
    return round(duration_s * 1000, 1)
