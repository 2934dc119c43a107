"""Sound files for tests, written by FFmpeg as clients' programs write them."""

import io

import av
import numpy as np

from omni.audio import Waveform

RATE_HZ = 24_000


def tone(duration_s: float, rate_hz: int = RATE_HZ, hz: float = 440.0) -> Waveform:
    """Return a tone of level 0.21 (rms)."""
    at_s = np.arange(round(duration_s * rate_hz), dtype=np.float32) / np.float32(rate_hz)
    waveform: Waveform = (0.3 * np.sin(2 * np.pi * hz * at_s)).astype(np.float32)
    return waveform


def sound_file(container: str, codec: str, samples: Waveform, rate_hz: int = RATE_HZ) -> bytes:
    """Return *samples* as a file; *rate_hz* is theirs and the file's."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate_hz, layout="mono")
        assert isinstance(stream, av.AudioStream)
        frame = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
        frame.sample_rate = rate_hz
        context = stream.codec_context
        frame_size = context.frame_size or 1024  # 0: the coder takes frames of any size
        resampler = av.AudioResampler(context.format, "mono", rate_hz, frame_size)
        for piece in (*resampler.resample(frame), *resampler.resample(None)):
            output.mux(stream.encode(piece))
        output.mux(stream.encode(None))
    return file.getvalue()
