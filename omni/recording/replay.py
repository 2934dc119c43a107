"""The timeline of a finished full-duplex session: chunks laid back to back, each a slot."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from attrs import define, field, frozen

from omni.audio import INPUT_HZ, OUTPUT_HZ, StreamResampler, Waveform, pcm16_from_waveform
from omni.errors import ProtocolError
from omni.wav import waveform_from_wav

Document = dict[str, Any]

#: Captions stay so long after a turn's end, unless the next one begins.
CAPTION_LINGER_S = 1.5
#: The end of a long turn is shown: three lines hold about half of this.
_MAX_SHOWN_CHARS = 240
#: A slot of the user's rate in whole samples of the answer's rate, 3 to 2.
_EVEN = 2
_PEAKS_HZ = 10
#: Of one bin: two channels of two bytes.
_PEAK_BYTES = INPUT_HZ // _PEAKS_HZ * 4


@frozen(kw_only=True)
class Slot:
    """One chunk on the timeline. begin, length: samples at 16 kHz. text: of its turn so far."""

    begin: int
    length: int
    user_audio: str
    ai_audio: str
    frame: str
    text: str
    has_spoken: bool

    @property
    def begin_s(self) -> float:
        """When it begins, in seconds."""
        return self.begin / INPUT_HZ

    @property
    def end_s(self) -> float:
        """When it ends, in seconds."""
        return (self.begin + self.length) / INPUT_HZ


def timeline(folder: Path, chunks: Sequence[Document], chunk_ms: int = 1000) -> list[Slot]:
    """Return the slots of *chunks* (of recording.json); each lasts max(user, answer, chunk_ms)."""
    shortest = chunk_ms * INPUT_HZ // 1000
    slots: list[Slot] = []
    begin, said, is_over = 0, "", True
    for chunk in chunks:
        result = chunk.get("result", {})
        user, answer = chunk.get("user_audio", ""), result.get("ai_audio", "")
        length = _slot_samples(_num_samples(folder, user), _num_samples(folder, answer), shortest)
        spoke = result.get("mode") == "SPEAK"
        if spoke:
            said = ((said if not is_over else "") + result.get("text", ""))[-_MAX_SHOWN_CHARS:]
        is_over = bool(result.get("end_of_turn")) or (is_over and not spoke)
        slots.append(
            Slot(
                begin=begin,
                length=length,
                user_audio=user,
                ai_audio=answer,
                frame=chunk.get("user_frame", ""),
                text=said if spoke else "",
                has_spoken=spoke,
            )
        )
        if result.get("mode") == "LISTEN":
            is_over = True
        begin += length
    return slots


def merged_sound(folder: Path, slots: Sequence[Slot]) -> Iterator[bytes]:
    """Yield stereo PCM16 at 16 kHz, a piece for each slot: left the user, right the answers.

    The answers are one sound that runs through all slots, resampled without seams. The pieces
    together have exactly the slots' length.
    """
    resampler = StreamResampler(OUTPUT_HZ, INPUT_HZ)
    right, owed = np.zeros(0, np.float32), 0
    left: list[Waveform] = []
    for number, slot in enumerate(slots):
        user = _fitted(read_wav(folder, slot.user_audio), slot.length)
        answer = _fitted(read_wav(folder, slot.ai_audio), slot.length * OUTPUT_HZ // INPUT_HZ)
        is_last = number == len(slots) - 1
        right = np.concatenate([right, resampler.push(answer, last=is_last)])
        left.append(user)
        owed += slot.length
        ready = owed if is_last else min(owed, right.size)
        yield _stereo(left, _fitted(right[:ready], ready))
        right, owed = right[ready:], owed - ready


@define
class Peaks:
    """The loudest moment of either side in each tenth of a second, in percent of full scale."""

    _held: bytes = field(default=b"", init=False)
    _user: list[int] = field(factory=list, init=False)
    _ai: list[int] = field(factory=list, init=False)

    def add(self, piece: bytes) -> None:
        """Take the next piece of stereo PCM16."""
        self._held += piece
        whole = len(self._held) // _PEAK_BYTES * _PEAK_BYTES
        samples = np.frombuffer(self._held[:whole], "<i2").astype(np.int32)
        bins = np.abs(samples.reshape(-1, _PEAK_BYTES // 4, 2)).max(axis=1) * 100 // 32_768
        self._user += bins[:, 0].tolist()
        self._ai += bins[:, 1].tolist()
        self._held = self._held[whole:]

    def document(self) -> Document:
        """Return what the viewer draws."""
        return {"bins_per_s": _PEAKS_HZ, "user": self._user, "ai": self._ai}


def read_wav(folder: Path, name: str) -> Waveform:
    """Return the sound of a file of the recording; nothing where there is none."""
    if not name:
        return np.zeros(0, np.float32)
    try:
        return waveform_from_wav((folder / name).read_bytes())[0]
    except (OSError, ProtocolError):
        return np.zeros(0, np.float32)


def _stereo(left: list[Waveform], right: Waveform) -> bytes:
    """Return as much of *left* as there is of *right*, interleaved; takes it out of *left*."""
    held = np.concatenate(left)
    left[:] = [held[right.size :]]
    return pcm16_from_waveform(np.column_stack([held[: right.size], right]).reshape(-1))


def _slot_samples(user: int, answer: int, shortest: int) -> int:
    longest = max(user, math.ceil(answer * INPUT_HZ / OUTPUT_HZ), shortest)
    return longest + longest % _EVEN


def _num_samples(folder: Path, name: str) -> int:
    return read_wav(folder, name).size


def _fitted(samples: Waveform, length: int) -> Waveform:
    if samples.size >= length:
        return samples[:length]
    return np.concatenate([samples, np.zeros(length - samples.size, np.float32)])
