"""Analysis of a reference recording: speech tokens, speaker, mel; cached by content."""

import hashlib
import logging
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from attrs import frozen
from torch import Tensor

from omni.errors import CheckpointError, ClientError
from omni.minicpmo.voice_features import (
    MEL_RATE_HZ,
    TOKENIZER_RATE_HZ,
    kaldi_fbank,
    prompt_mel,
    resample,
    tokenizer_mel,
)

log = logging.getLogger(__name__)

CODES_PER_S = 25
FRAMES_PER_CODE = 2
NUM_CODES = 6561
MIN_SECONDS = 0.5  # shorter recordings say nothing about a voice
MAX_CACHED = 64  # voices; the oldest goes first


@frozen
class Voice:
    """A speaker. codes (P/2,) int64, mel (P, 80) float32, speaker (192,) float32, on the CPU.

    key: SHA-256 of the recording and its rate.
    """

    key: str
    codes: Tensor
    mel: Tensor
    speaker: Tensor


class VoiceAnalyser:
    """Runs the speech tokenizer and CAM++ on the CPU. Not thread-safe: one thread owns it."""

    def __init__(self, speech_tokenizer: Path, speaker_encoder: Path, max_codes: int) -> None:
        """Load both ONNX files. max_codes: longest prompt; what a recording has beyond is not used.

        Raises: CheckpointError.
        """
        self.max_codes = max_codes
        self._tokenizer = _load(speech_tokenizer)
        self._speaker = _load(speaker_encoder)
        self._voices: OrderedDict[str, Voice] = OrderedDict()

    def analyse(self, samples: npt.NDArray[np.float32], rate_hz: int) -> Voice:
        """Return the voice in *samples*, (N,) or (channels, N), in [-1, 1].

        Raises: ClientError if it is too short or not sound.
        """
        samples = np.atleast_2d(samples)
        key = _key(samples, rate_hz)
        if key not in self._voices:
            self._voices[key] = self._analyse(key, samples, rate_hz)
            if len(self._voices) > MAX_CACHED:
                self._voices.popitem(last=False)
        self._voices.move_to_end(key)
        return self._voices[key]

    def _analyse(self, key: str, samples: npt.NDArray[np.float32], rate_hz: int) -> Voice:
        _check(samples, rate_hz)
        max_samples = self.max_codes * rate_hz // CODES_PER_S
        if samples.shape[1] > max_samples:
            max_s = self.max_codes / CODES_PER_S
            log.info("a reference recording is longer than %.1f s: its end is not used", max_s)
        sound = torch.from_numpy(samples[:, :max_samples].astype(np.float32))
        at_16k = resample(sound, rate_hz, TOKENIZER_RATE_HZ)[0]
        codes = self._codes(at_16k)
        mel = prompt_mel(resample(sound.mean(0), rate_hz, MEL_RATE_HZ))
        return Voice(
            key=key,
            codes=codes,
            mel=fit_frames(mel, FRAMES_PER_CODE * len(codes)),
            speaker=self._embedding(at_16k),
        )

    def _codes(self, samples: Tensor) -> Tensor:
        mel = tokenizer_mel(samples)
        length = np.array([mel.shape[1]], dtype=np.int32)
        codes = torch.from_numpy(_run(self._tokenizer, mel[None].numpy(), length)).long().flatten()
        if not len(codes) or int(codes.min()) < 0 or int(codes.max()) >= NUM_CODES:
            raise CheckpointError(
                "the speech tokenizer gives no codes in 0..6560: speech_tokenizer_v2_25hz.onnx is "
                "not the published one. Fetch the model again (omni model fetch)."
            )
        return codes[: self.max_codes]

    def _embedding(self, samples: Tensor) -> Tensor:
        features = kaldi_fbank(samples)[None].numpy()
        return torch.from_numpy(_run(self._speaker, features)).float().flatten()


def fit_frames(mel: Tensor, num_frames: int) -> Tensor:
    """Return *mel* (T, M) cut to num_frames, or filled up with its last frame."""
    missing = num_frames - len(mel)
    return torch.cat((mel, mel[-1:].expand(missing, -1))) if missing > 0 else mel[:num_frames]


def _check(samples: npt.NDArray[np.float32], rate_hz: int) -> None:
    if rate_hz <= 0 or samples.ndim != 2 or samples.shape[1] < MIN_SECONDS * rate_hz:
        raise ClientError(
            f"the reference recording has {samples.shape[-1]} samples at {rate_hz} Hz: give at "
            f"least {MIN_SECONDS} s, better 3 to 10 s of one speaker"
        )
    if not np.isfinite(samples).all():
        raise ClientError("the reference recording has values that are not numbers")


def _key(samples: npt.NDArray[np.float32], rate_hz: int) -> str:
    digest = hashlib.sha256(f"{rate_hz} {samples.shape}".encode())
    digest.update(np.ascontiguousarray(samples).tobytes())
    return digest.hexdigest()


def _load(path: Path) -> Any:  # onnxruntime has no types
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # a voice is analysed beside running sessions
    try:
        return onnxruntime.InferenceSession(
            str(path), sess_options=options, providers=["CPUExecutionProvider"]
        )
    except Exception as exc:  # onnxruntime raises its own classes, without a common base
        raise CheckpointError(f"{path} is no ONNX model ({exc}). Fetch it again.") from exc


def _run(session: Any, *inputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
    names = [given.name for given in session.get_inputs()]
    result: npt.NDArray[Any] = session.run(None, dict(zip(names, inputs, strict=True)))[0]
    return result
