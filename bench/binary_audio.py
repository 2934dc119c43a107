"""What a second of sound costs in each form: bytes on the socket, and CPU to write and to read it.

    python -m bench.binary_audio [--rounds N] [--json FILE]

A spoken text goes through the dialect of `/ws/duplex`, one second a unit, as in a call.
"""

import argparse
import time
from collections.abc import Sequence

import numpy as np
import orjson

from bench import report
from bench.speech import load_voice, speak
from omni.audio import INPUT_HZ, OUTPUT_HZ, Waveform, float32_from_waveform, pcm16_from_waveform
from omni.engine import Buffer, UnitResult
from omni.realtime.binary_sound import SOUND_FORMS, SoundForm
from omni.realtime.dialect import Sound, UnitAnswered
from omni.realtime.duplex import DuplexDialect
from omni.realtime.media import FLOAT32_TAG, PCM16_TAG, encode_base64
from omni.realtime.opus import OpusWriter

TEXT = (
    "The ship left early, and nobody on the shore had seen its lights. By noon the fog had gone; "
    "what was left of the storm lay far in the west, and the sea was as flat as a table."
)


def main() -> None:
    """Measure and print."""
    args = _arguments().parse_args()
    voice = load_voice()
    heard, spoken = (_seconds(speak(voice, TEXT, rate), rate) for rate in (INPUT_HZ, OUTPUT_HZ))
    rows = [_measure(form, heard, spoken, args.rounds) for form in SOUND_FORMS]
    machine = report.machine()
    print(f"{machine}\n\n{report.table(rows)}")
    report.write_json(args.json, {"machine": machine, "rows": rows})


def _measure(
    form: SoundForm, heard: Sequence[Waveform], spoken: Sequence[Waveform], rounds: int
) -> dict[str, object]:
    """Return a row: of a second towards the server, and of one back."""
    written = [frame for _ in range(rounds) for frame in _written(form, heard)]
    reading = DuplexDialect("audio_duplex")
    read_ms = []
    for frame in written:
        began_s = time.process_time()
        command = reading.parse(frame, binary=form != "base64")
        read_ms.append((time.process_time() - began_s) * 1000)
        assert isinstance(command, Sound)
    told_bytes, told_ms = _tell(form, list(spoken) * rounds)
    return {
        "form": form,
        "in bytes/s": round(sum(map(len, written)) / len(written)),
        "out bytes/s": round(told_bytes / (len(spoken) * rounds)),
        **{f"read {key} ms": value for key, value in report.percentiles(read_ms, 3).items()},
        **{f"tell {key} ms": value for key, value in report.percentiles(told_ms, 3).items()},
    }


def _written(form: SoundForm, seconds: Sequence[Waveform]) -> list[bytes]:
    """Return what a client sends: its own cost is not measured."""
    if form == "opus":
        return _packed(seconds)
    if form == "pcm16":
        return [PCM16_TAG + pcm16_from_waveform(second) for second in seconds]
    sounds = [float32_from_waveform(second) for second in seconds]
    if form == "float32":
        return [FLOAT32_TAG + sound for sound in sounds]
    return [
        orjson.dumps({"type": "audio_chunk", "audio_base64": encode_base64(sound)})
        for sound in sounds
    ]


def _packed(seconds: Sequence[Waveform]) -> list[bytes]:
    writer = OpusWriter()
    frames = []
    for second in seconds:
        at_24_khz = np.repeat(second, 3)[::2]  # what it sounds like does not matter here
        frame = writer.frame(float32_from_waveform(at_24_khz), False)
        assert frame is not None and frame.work is not None
        frames.append(frame.work())
    return frames


def _tell(form: SoundForm, seconds: Sequence[Waveform]) -> tuple[int, list[float]]:
    """Return the bytes of all results, and what each cost, in ms."""
    dialect = DuplexDialect("audio_duplex")
    dialect.parse(orjson.dumps({"type": "prepare", "sound": form}), binary=False)
    num_bytes, costs_ms = 0, []
    for second in seconds:
        result = UnitResult(is_listen=False, pcm=Buffer(float32_from_waveform(second)))
        answered = UnitAnswered(result=result, wall_clock_ms=1.0, sent_at=1.0)
        began_s = time.process_time()
        frames = dialect.render(answered)
        sizes = [len(frame.work() if frame.work else frame.data) for frame in frames]
        costs_ms.append((time.process_time() - began_s) * 1000)
        num_bytes += sum(sizes)
    return num_bytes, costs_ms


def _seconds(sound: Waveform, rate_hz: int) -> list[Waveform]:
    return [sound[at : at + rate_hz] for at in range(0, sound.size - rate_hz + 1, rate_hz)]


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20, help="how often the text is said")
    parser.add_argument("--json", default="", metavar="FILE", help="write the figures there")
    return parser


if __name__ == "__main__":
    main()
