"""All files of a checkpoint directory -> what an engine is made of, read side by side.

The weights of the language model take longest, and their readers hardly hold Python's lock: the
vocoder, the tokenizer and the analysers of voices load meanwhile.
"""

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import torch
from attrs import frozen

from omni.audio import INPUT_HZ, resample
from omni.errors import CheckpointError, ClientError, ProtocolError, SettingsError
from omni.minicpmo.checkpoint import MiniCpmO
from omni.minicpmo.load_times import Stopwatch
from omni.minicpmo.token2wav_assets import Token2WavAssets, load_assets
from omni.minicpmo.token2wav_calls import Token2WavOptions
from omni.minicpmo.tokenizer import Tokenizer
from omni.minicpmo.voice import VoiceAnalyser
from omni.minicpmo.work import Waveform
from omni.wav import waveform_from_wav

T = TypeVar("T")

#: How long a thread may keep Python's lock from the others while files are read. Beside a thread
#: that computes in Python, four readers got 2.8 GB/s with the usual 5 ms, 11.8 GB/s with this, and
#: 16 GB/s without it (files in the page cache, 2 cores).
_SWITCH_S = 1e-4


@frozen(kw_only=True, eq=False)
class Parts:
    """What the files hold. voices: has analysed *default_voice* (float32, 16 kHz) already."""

    tokenizer: Tokenizer
    model: MiniCpmO
    assets: Token2WavAssets
    voices: VoiceAnalyser
    default_voice: Waveform


@frozen(kw_only=True)
class Source:
    """Where the files are, and where their tensors go. ref_audio_path: as the settings say."""

    directory: Path
    device: torch.device
    dtype: torch.dtype
    ref_audio_path: str = ""

    @property
    def flow_dtype(self) -> torch.dtype:
        """The precision of the flow and of its caches beside a model in *dtype*."""
        # Beside a bfloat16 model float16, a published option: a second of sound takes 15 ms instead
        # of 22 on an H100 (float32 with TF32 rounds alike), and the caches, which are the largest
        # state of a session after the language model's, 49 MB instead of 98.
        is_exact = self.device.type == "cpu" or self.dtype is torch.float32
        return torch.float32 if is_exact else torch.float16


def load_parts(source: Source, load_model: Callable[[], MiniCpmO], watch: Stopwatch) -> Parts:
    """Return what *load_model* gives and all that lies beside it.

    Raises: CheckpointError, SettingsError, when every part has ended.
    """
    folder = source.directory / "assets" / "token2wav"
    is_inference = torch.is_inference_mode_enabled()

    def read(work: Callable[[], T]) -> Future[T]:
        def run() -> T:
            with torch.inference_mode(is_inference):  # each thread has its own
                return work()

        return beside.submit(run)

    with (
        _switching_often(),
        ThreadPoolExecutor(3, thread_name_prefix="loading") as beside,
    ):
        # Reading the vocabulary holds Python's lock; a GPU's start needs it only at its beginning.
        tokenizer = read(lambda: _tokenizer(source.directory, watch))
        with watch.stage("device"):
            torch.empty(1, device=source.device)
        assets = read(
            lambda: load_assets(
                folder, source.device, flow_dtype=source.flow_dtype, stage=watch.stage
            )
        )
        voice = default_voice(source.ref_audio_path, source.directory)
        voices = read(lambda: _analyser(folder, voice, watch))
        with watch.stage("weights"):
            model = load_model()
        with watch.stage("wait for the others"):
            return Parts(
                tokenizer=tokenizer.result(),
                model=model,
                assets=assets.result(),
                voices=voices.result(),
                default_voice=voice,
            )


@contextmanager
def _switching_often() -> Iterator[None]:
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before_s)


def _tokenizer(directory: Path, watch: Stopwatch) -> Tokenizer:
    with watch.stage("tokenizer"):
        return Tokenizer.from_directory(directory)


def _analyser(folder: Path, voice: Waveform, watch: Stopwatch) -> VoiceAnalyser:
    with watch.stage("ONNX analysers"):
        voices = VoiceAnalyser(
            folder / "speech_tokenizer_v2_25hz.onnx",
            folder / "campplus.onnx",
            Token2WavOptions(num_slots=1).max_voice_codes,
        )
    with watch.stage("default voice"), suppress(ClientError):  # told to who speaks with it
        voices.analyse(voice, INPUT_HZ)
    return voices


def default_voice(ref_audio_path: str, directory: Path) -> Waveform:
    """Return the reference voice of sessions that bring none: float32, 16 kHz.

    The settings' file, else one that came with the model, else the one of this package.
    Raises: SettingsError for a file that the settings name and that cannot be read.
    """
    shipped = [directory / "assets" / "HT_ref_audio.wav"]
    shipped += sorted((directory / "assets").glob("system_ref_audio*.wav"))
    ours = Path(__file__).parents[1] / "assets" / "default_voice.wav"
    found = next(path for path in (*shipped, ours) if path.is_file())
    path = Path(ref_audio_path) if ref_audio_path else found
    try:
        samples, rate_hz = waveform_from_wav(path.read_bytes())
    except (OSError, ProtocolError) as exc:
        kind = SettingsError if ref_audio_path else CheckpointError
        raise kind(f"{path}: the reference voice cannot be read: {exc}") from exc
    return resample(samples, rate_hz, INPUT_HZ)
