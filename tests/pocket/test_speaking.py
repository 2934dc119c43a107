"""The voice can be understood: what it says is transcribed again and compared."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from omni import audio
from omni.errors import CheckpointError
from omni.pocket import weights
from omni.pocket.hearing import Hearing
from omni.pocket.lexicon import Lexicon
from omni.pocket.speaking import Voice
from tests.pocket.conftest import said_at_16_khz, word_error_rate

SENTENCES = (
    "There are seven days in a week and twelve months in a year.",
    "Please remember to bring your umbrella, because it might rain later.",
    "Jupiter is the largest planet in our solar system.",
    "We usually have breakfast at 8:30 in the kitchen.",
)


def test_what_is_said_is_heard(voice: Voice, hearing: Hearing) -> None:
    heard = [hearing.transcribe(said_at_16_khz(voice, sentence)) for sentence in SENTENCES]

    errors = [word_error_rate(said, again) for said, again in zip(SENTENCES, heard)]
    assert sum(errors) / len(errors) < 0.1, heard


def test_speech_is_24_khz_and_never_clips(voice: Voice) -> None:
    waveform = voice.say(SENTENCES[0])

    assert waveform.dtype == np.float32
    assert 2.0 < audio.seconds(waveform.size, audio.OUTPUT_HZ) < 6.0
    assert np.abs(waveform).max() <= 1.0
    assert audio.rms(waveform) > 0.02


def test_text_without_words_is_silent(voice: Voice) -> None:
    assert voice.say(" ... ").size == 0


def test_a_voice_of_another_language_is_refused(tmp_path: Path, lexicon: Lexicon) -> None:
    packaged = weights.voice_file()
    path = tmp_path / "voice.onnx"
    shutil.copy(packaged, path)
    config = json.loads(Path(f"{packaged}.json").read_text())
    config["espeak"]["voice"] = "de"
    Path(f"{path}.json").write_text(json.dumps(config))

    with pytest.raises(CheckpointError, match=re.escape("language de")):
        Voice.load(path, lexicon)


def test_a_missing_voice_is_named(tmp_path: Path, lexicon: Lexicon) -> None:
    with pytest.raises(CheckpointError, match="nobody.onnx"):
        Voice.load(tmp_path / "nobody.onnx", lexicon)
