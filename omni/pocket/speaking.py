"""Text -> speech: a Piper voice run by onnxruntime, with our own phonemes instead of espeak's."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from omni import audio
from omni.errors import CheckpointError
from omni.pocket.lexicon import Lexicon
from omni.pocket.phonemes import phonemes

#: Marks of a Piper voice's phoneme_id_map. Source: the voice's .onnx.json
_START, _END, _PAD = "^", "$", "_"
#: The vowels and breath vary by these; defaults of the voice's "inference" section.
_SCALES = ("noise_scale", "length_scale", "noise_w")
#: The voice peaks near 1 now and then; this leaves headroom for resampling.
_GAIN = np.float32(0.9)


class Voice:
    """Speaks single sentences. Safe to use from several threads: a run holds no state."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        symbol_ids: Mapping[str, Sequence[int]],
        scales: Sequence[float],
        rate_hz: int,
        lexicon: Lexicon,
    ) -> None:
        self._session = session
        self._symbol_ids = symbol_ids
        self._scales = np.asarray(scales, dtype=np.float32)
        self._rate_hz = rate_hz
        self._lexicon = lexicon

    @classmethod
    def load(
        cls, path: Path, lexicon: Lexicon, num_threads: int = 1, varies: bool = True
    ) -> "Voice":
        """Return the voice of the ONNX file *path*, with its settings in *path*.json beside it.

        varies: False says the same text in the same way every time, and a little flatter.

        Raises: CheckpointError, if a file is missing, broken, or not a one-speaker espeak voice.
        """
        config = _read_config(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.inter_op_num_threads = 1
        # Idle workers must not spin: Whisper and the language model share the same cores.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as exc:  # onnxruntime's own exceptions share no base but Exception
            raise CheckpointError(f"voice {path}: {exc}") from exc
        scales = [float(config["inference"][name]) for name in _SCALES]
        if not varies:
            scales = [0.0, scales[1], 0.0]
        rate_hz = int(config["audio"]["sample_rate"])
        return cls(session, config["phoneme_id_map"], scales, rate_hz, lexicon)

    def say(self, text: str) -> audio.Waveform:
        """Return *text*, one sentence or clause, as sound at 24 kHz; empty if nothing is said."""
        said = phonemes(text, self._lexicon)
        if not said:
            return np.zeros(0, dtype=np.float32)
        return self.say_phonemes(said)

    def say_phonemes(self, said: str) -> audio.Waveform:
        """Return the IPA *said* as sound at 24 kHz."""
        ids = self._ids(said)
        (sound,) = self._session.run(
            None,
            {
                "input": ids[None, :],
                "input_lengths": np.array([ids.size], dtype=np.int64),
                "scales": self._scales,
            },
        )
        waveform = np.clip(np.asarray(sound, dtype=np.float32).reshape(-1) * _GAIN, -1, 1)
        return audio.resample(waveform, self._rate_hz, audio.OUTPUT_HZ)

    def _ids(self, said: str) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        ids = [*self._symbol_ids[_START], *self._symbol_ids[_PAD]]
        for symbol in said:
            if symbol in self._symbol_ids:
                ids += [*self._symbol_ids[symbol], *self._symbol_ids[_PAD]]
        return np.array([*ids, *self._symbol_ids[_END]], dtype=np.int64)


def _read_config(path: Path) -> dict[str, Any]:  # Any: JSON of an outside file
    config_path = path.with_name(path.name + ".json")
    try:
        config: dict[str, Any] = json.loads(config_path.read_text(encoding="utf-8"))
        speakers = int(config["num_speakers"])
        language = str(config["espeak"]["voice"])
    except (OSError, ValueError, KeyError) as exc:
        raise CheckpointError(f"voice settings {config_path}: {exc!r}") from exc
    if speakers != 1 or not language.startswith("en"):
        raise CheckpointError(
            f"voice {path}: {speakers} speakers, language {language}; "
            "an English Piper voice with one speaker is needed"
        )
    return config
