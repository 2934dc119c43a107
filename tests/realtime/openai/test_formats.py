"""Sound in the formats of OpenAI clients."""

import av
import numpy as np
import pytest

from omni.audio import Waveform
from omni.errors import ProtocolError
from omni.realtime.openai.config import FormatName
from omni.realtime.openai.formats import Decoder, Encoder, decode, encode, rate_hz

ALL_BYTES = bytes(range(256))


def tone(hz: float, rate: int, duration_s: float = 1.0) -> Waveform:
    at_s = np.arange(int(rate * duration_s)) / rate
    return (0.5 * np.sin(2 * np.pi * hz * at_s)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "codec"), [("audio/pcmu", "pcm_mulaw"), ("audio/pcma", "pcm_alaw")]
)
def test_every_byte_of_g711_is_what_ffmpeg_says(name: FormatName, codec: str) -> None:
    context = av.CodecContext.create(codec, "r")
    context.sample_rate, context.layout = 8_000, "mono"
    (frame,) = context.decode(av.Packet(ALL_BYTES))

    assert np.array_equal(decode(name, ALL_BYTES) * 32_768, frame.to_ndarray()[0])


@pytest.mark.parametrize("name", ["audio/pcmu", "audio/pcma"])
def test_g711_is_written_as_the_nearest_value(name: FormatName) -> None:
    samples = np.arange(-32_768, 32_768, 7, dtype=np.float32) / np.float32(32_768)

    errors = np.abs(decode(name, encode(name, samples)) - samples)

    values = np.unique(decode(name, ALL_BYTES))
    nearest = np.abs(values[None, :] - samples[:, None]).min(axis=1)
    assert np.allclose(errors, nearest, atol=1e-6)


@pytest.mark.parametrize("name", ["audio/pcm", "audio/pcmu", "audio/pcma"])
def test_sound_in_pieces_has_no_seams(name: FormatName) -> None:
    data = encode(name, tone(440, rate_hz(name)))
    decoder, whole = Decoder(name), Decoder(name)
    pieces = [decoder.push(data[at : at + 2_000]) for at in range(0, len(data), 2_000)]

    joined = np.concatenate([*pieces, decoder.drain()])

    assert np.array_equal(joined, np.concatenate([whole.push(data), whole.drain()]))
    assert joined.size == pytest.approx(16_000, abs=1)
    middle = slice(1_000, 15_000)
    assert np.abs(joined[middle] - tone(440, 16_000)[middle]).max() < 0.03


def test_a_drained_decoder_begins_anew() -> None:
    decoder = Decoder("audio/pcm")
    data = encode("audio/pcm", tone(440, 24_000))
    first = np.concatenate([decoder.push(data), decoder.drain()])

    second = np.concatenate([decoder.push(data), decoder.drain()])

    assert np.array_equal(first, second)


@pytest.mark.parametrize("name", ["audio/pcm", "audio/pcmu", "audio/pcma"])
def test_an_answer_in_pieces_is_as_long_as_its_sound(name: FormatName) -> None:
    encoder, sound = Encoder(name), tone(300, 24_000)
    nothing = np.zeros(0, np.float32)
    data = b"".join(encoder.push(sound[at : at + 999]) for at in range(0, sound.size, 999))

    back = decode(name, data + encoder.push(nothing, last=True))

    assert back.size == pytest.approx(rate_hz(name), abs=1)


def test_half_a_sample_is_refused() -> None:
    with pytest.raises(ProtocolError):
        Decoder("audio/pcm").push(b"\0\0\0")
