"""Speech -> text: Whisper through ctranslate2, over a window no longer than the speech needs."""

import re
import zlib
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
from attrs import frozen
from faster_whisper import WhisperModel

from omni import audio
from omni.errors import CheckpointError

#: Mel frames a second. Source: Whisper's preprocessor, hop 160 at 16 kHz.
_FRAMES_HZ = 100
#: Whisper was trained on windows of 30 s. The encoder's cost falls faster than the window's length
#: (tiny.en int8, one thread: 0.57 s for 3000 frames, 0.14 s for 1500, 0.09 s for 1000), but with
#: little silence after the speech it repeats itself for ever. Measured in docs/pocket.md.
_MAX_FRAMES = 3000
_MIN_FRAMES = 1500
_SILENT_FRAMES = 600
#: What is longer is cut at its quietest place within the last part. Whisper without time stamps
#: skips sentences in long windows: of 28 s it left out the first 15.
_MAX_PIECE_S = 15.0
_CUT_WITHIN_S = 6.0
_LEVEL_WINDOW_S = 0.1
#: People say at most about 4 words a second, 6 tokens; more is Whisper talking to itself.
_TOKENS_PER_S = 8
_TOKENS_AT_LEAST = 16
#: Source: openai/whisper, half of the 448 tokens of text context, less one.
_MAX_PROMPT_TOKENS = 223
#: Above these the window held no speech, or the text repeats. Source: openai/whisper's defaults.
_NO_SPEECH_PROB = 0.6
_LOW_LOGPROB = -1.0
_REPETITIVE = 2.4
#: The same one to eight words three times in a row.
_REPEATED_WORDS = re.compile(r"\b(\w+(?:\W+\w+){0,7})(?:\W+\1\b){2,}", re.IGNORECASE)


@frozen(kw_only=True)
class Hints:
    """What helps to hear. prompt: words that may come, or the text before. temperature: 0 takes the
    likeliest word.
    """

    prompt: str = ""
    temperature: float = 0.0


class Hearing:
    """Transcribes English. Safe to use from several threads, which then take turns."""

    def __init__(self, model: Any, beam_size: int) -> None:  # Any: faster_whisper has no types
        self._model = model
        self._beam_size = beam_size
        tokenizer = model.hf_tokenizer
        names = ["<|startoftranscript|>", "<|notimestamps|>"]
        if model.model.is_multilingual:
            names[1:1] = ["<|en|>", "<|transcribe|>"]
        self._prompt = [tokenizer.token_to_id(name) for name in names]

    @classmethod
    def load(cls, directory: Path, num_threads: int = 1, beam_size: int = 1) -> "Hearing":
        """Return the recogniser of a faster-whisper *directory*, computing in int8.

        Raises: CheckpointError, if it is not one.
        """
        if not (directory / "model.bin").exists():
            raise CheckpointError(f"{directory} is no faster-whisper directory: no model.bin")
        try:
            model = WhisperModel(
                str(directory),
                device="cpu",
                compute_type="int8",
                cpu_threads=num_threads,
                local_files_only=True,
            )
        except (RuntimeError, ValueError, OSError) as exc:
            raise CheckpointError(f"speech recogniser {directory}: {exc}") from exc
        return cls(model, beam_size)

    def transcribe(self, waveform: audio.Waveform, hints: Hints = Hints()) -> str:
        """Return what is said in *waveform* (16 kHz, any length); "" where nobody speaks."""
        texts = [self._transcribe_piece(piece, hints) for piece in _pieces(waveform)]
        return " ".join(text for text in texts if text)

    def _transcribe_piece(self, piece: audio.Waveform, hints: Hints) -> str:
        mel = self._model.feature_extractor(piece)[:, :_MAX_FRAMES]
        num_frames = min(_MAX_FRAMES, max(_MIN_FRAMES, mel.shape[1] + _SILENT_FRAMES))
        text = self._generate(mel, num_frames, hints)
        if _is_repetitive(text) and num_frames < _MAX_FRAMES:
            text = self._generate(mel, _MAX_FRAMES, hints)
        return "" if _is_repetitive(text) else text

    def _generate(self, mel: audio.Waveform, num_frames: int, hints: Hints) -> str:
        window = np.zeros((1, mel.shape[0], num_frames), dtype=np.float32)
        window[0, :, : mel.shape[1]] = mel
        duration_s = mel.shape[1] / _FRAMES_HZ
        features = ctranslate2.StorageView.from_array(window)
        prompt = [*self._before(hints.prompt), *self._prompt]
        result = self._model.model.generate(
            self._model.model.encode(features),
            [prompt],
            beam_size=1 if hints.temperature else self._beam_size,
            sampling_topk=0 if hints.temperature else 1,
            sampling_temperature=hints.temperature or 1.0,
            max_length=len(prompt) + _TOKENS_AT_LEAST + int(duration_s * _TOKENS_PER_S),
            return_scores=True,
            return_no_speech_prob=True,
        )[0]
        if result.no_speech_prob > _NO_SPEECH_PROB and result.scores[0] < _LOW_LOGPROB:
            return ""
        text: str = self._model.hf_tokenizer.decode(result.sequences_ids[0])
        return text.strip()

    def _before(self, text: str) -> list[int]:
        """Return the tokens of the text before; Whisper takes half of its context for it."""
        if not text.strip():
            return []
        tokenizer = self._model.hf_tokenizer
        ids: list[int] = tokenizer.encode(" " + text.strip(), add_special_tokens=False).ids
        return [tokenizer.token_to_id("<|startofprev|>"), *ids[-_MAX_PROMPT_TOKENS:]]


def _pieces(waveform: audio.Waveform) -> list[audio.Waveform]:
    """Return *waveform* in pieces of at most _MAX_PIECE_S, cut where it is quiet."""
    longest = audio.samples(_MAX_PIECE_S, audio.INPUT_HZ)
    pieces = []
    while waveform.size > longest:
        cut = _quietest(waveform[:longest])
        pieces.append(waveform[:cut])
        waveform = waveform[cut:]
    return [*pieces, waveform] if waveform.size else pieces


def _quietest(waveform: audio.Waveform) -> int:
    size = audio.samples(_LEVEL_WINDOW_S, audio.INPUT_HZ)
    first = waveform.size - audio.samples(_CUT_WITHIN_S, audio.INPUT_HZ)
    starts = range(first, waveform.size - size, size)
    start = min(starts, key=lambda at: audio.rms(waveform[at : at + size]))
    return start + size // 2


def _is_repetitive(text: str) -> bool:
    if _REPEATED_WORDS.search(text):
        return True
    raw = text.encode()
    return len(raw) / max(1, len(zlib.compress(raw))) > _REPETITIVE
