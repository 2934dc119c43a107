"""Text -> WAV with the packaged Piper voice: questions for benches, and the default voice.

    python -m bench.speech omni/assets/default_voice.wav "Hello, ..." 16000
"""

import sys
from pathlib import Path

import numpy as np

from omni.audio import OUTPUT_HZ, Waveform, resample
from omni.pocket import weights
from omni.pocket.lexicon import Lexicon
from omni.pocket.speaking import Voice
from omni.wav import wav_from_waveform

PAUSE_S = 0.25


def load_voice() -> Voice:
    """Return the packaged voice; it says a text in the same way every time."""
    lexicon = Lexicon.load(weights.lexicon_files(), weights.letter_to_sound_file())
    return Voice.load(weights.voice_file(), lexicon, varies=False)


def speak(voice: Voice, text: str, rate_hz: int) -> Waveform:
    """Return *text*, sentence by sentence with a pause between them."""
    pause = np.zeros(round(PAUSE_S * OUTPUT_HZ), np.float32)
    pieces: list[Waveform] = []
    for sentence in text.replace("?", "?|").replace(".", ".|").split("|"):
        if sentence.strip():
            pieces += [voice.say(sentence.strip()), pause]
    return resample(np.concatenate(pieces[:-1]), OUTPUT_HZ, rate_hz)


def main(out: str, text: str, rate_hz: str) -> None:
    """Write *text* as speech to the file *out*."""
    samples = speak(load_voice(), text, int(rate_hz))
    Path(out).write_bytes(wav_from_waveform(samples, int(rate_hz)))


if __name__ == "__main__":
    main(*sys.argv[1:])
