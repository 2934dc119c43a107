"""`audio.vocoder = "minicpmo-utils"`: the package's Token2wav instead of ours, a check on a GPU.

An independent program for the same weights, one slot after the other and several times slower. It
gets our analysis of the voice and the noise that ours starts from, so that sound can be compared.
The only module that imports the package.
"""

import importlib
import logging
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from attrs import define
from torch import Tensor

from omni.errors import SettingsError
from omni.minicpmo.model import cfm, hift_causal
from omni.minicpmo.token2wav import SlotChunk, SlotSound
from omni.minicpmo.token2wav_assets import Layout, find_layout
from omni.minicpmo.token2wav_calls import Token2WavOptions
from omni.minicpmo.voice import Voice

log = logging.getLogger(__name__)

#: Sessions at once: each keeps a copy of the caches, 0.5 GB with a voice of 10 s.
MAX_SLOTS = 4
_PACKAGE = "minicpmo-utils"
#: Where the package keeps what belongs to one stream; 1.0.6 has no _stream_prompt.
_STATE = ("cache", "stream_cache", "hift_cache_dict", "_stream_prompt")
#: The last release that reads the five files, and the first that reads the causal layout alone.
_VERSIONS = {Layout.HIFT: "1.0.6", Layout.CAUSAL: "1.0.7"}
_OR_NATIVE = "or set audio.vocoder to 'native'"

Package = Any  # Token2wav of whichever release is installed; it has no types


@define
class _Turn:
    """A slot's turn: whose voice, and the package's own state between two of its chunks."""

    key: str
    state: dict[str, Any]


class Token2WavCheck:
    """The package behind the calls of `Token2Wav`; its one stream is switched between slots."""

    def __init__(self, package: Package, options: Token2WavOptions, device: torch.device) -> None:
        self.options = options
        self._package = package
        self._device = device
        self._turns: dict[int, _Turn] = {}

    @torch.inference_mode()
    def start_turn(self, slot: int, voice: Voice) -> None:
        """Put *slot* at the start of a turn spoken by *voice*."""
        prompt = self._prompt(voice)
        self._package.cache = None
        self._package._prepare_prompt = lambda key: prompt
        caches = self._package.set_stream_cache(voice.key)
        self._package.stream_cache, self._package.hift_cache_dict = caches
        self._turns[slot] = _Turn(voice.key, self._take_state())

    def release(self, slot: int) -> None:
        """Forget *slot*."""
        self._turns.pop(slot, None)

    def capture(self, batch_sizes: Sequence[int], voice_codes: int) -> int:
        """Record nothing; return 0."""
        return 0

    @torch.inference_mode()
    def step(self, chunks: Sequence[SlotChunk]) -> list[SlotSound]:
        """Return the sound of *chunks* in their order, made one after the other."""
        return [SlotSound(each.slot, self._stream(each)) for each in chunks]

    def _stream(self, each: SlotChunk) -> Tensor:
        turn = self._turns[each.slot]
        for name, value in turn.state.items():
            setattr(self._package, name, value)
        wave = self._package.stream(
            list(each.chunk.codes),
            prompt_wav=turn.key,
            last_chunk=each.chunk.is_last,
            return_waveform=True,
        )
        turn.state = self._take_state()
        return torch.from_numpy(wave).flatten()

    def _take_state(self) -> dict[str, Any]:
        """Return what the next chunk of this turn needs; the package's buffers serve all turns."""
        state: dict[str, Any] = {name: getattr(self._package, name, None) for name in _STATE}
        caches = state["stream_cache"]
        return state | {"stream_cache": {name: value.clone() for name, value in caches.items()}}

    def _prompt(self, voice: Voice) -> tuple[Tensor, ...]:
        """Return what the package's own analysis would: codes and count, speaker, mel and count."""
        codes, mel = voice.codes[None].int(), voice.mel[None]
        lengths = (torch.tensor([each.shape[1]], dtype=torch.int32) for each in (codes, mel))
        num_codes, num_frames = lengths
        parts = (codes, num_codes, voice.speaker[None], mel, num_frames)
        return tuple(part.to(self._device) for part in parts)


def load_check(folder: Path, options: Token2WavOptions, device: torch.device) -> Token2WavCheck:
    """Return the package's vocoder with the weights of *folder*.

    Raises: SettingsError where it cannot be: no GPU, no package, or another layout than it reads.
    """
    if device.type != "cuda":
        raise SettingsError(
            f"audio.vocoder = {_PACKAGE!r} needs an NVIDIA GPU, and this process sees none: run it "
            f"where one is, {_OR_NATIVE}"
        )
    make, release = _import_package()
    try:
        package = make(str(folder), float16=False, n_timesteps=options.num_steps)
    except (OSError, RuntimeError, ValueError, KeyError) as exc:
        layout = find_layout(folder)
        raise SettingsError(
            f"{_PACKAGE} {release} cannot load {folder} ({layout.value} layout): {exc}. It is read "
            f"by {_PACKAGE} {_VERSIONS[layout]}: `.venv/base/bin/pip install --no-deps "
            f"{_PACKAGE}=={_VERSIONS[layout]}`, {_OR_NATIVE}"
        ) from exc
    use_our_noise(package)
    log.warning(
        "the vocoder is %s %s, a check: one session after the other, several times slower, and at "
        "most %d sessions",
        _PACKAGE,
        release,
        MAX_SLOTS,
    )
    return Token2WavCheck(package, options, device)


def _import_package() -> tuple[Callable[..., Package], str]:
    try:
        release = version(_PACKAGE)
    except PackageNotFoundError as exc:
        raise SettingsError(
            f"audio.vocoder = {_PACKAGE!r} needs that package: run `bin/omni install gpu`, "
            f"{_OR_NATIVE}"
        ) from exc
    try:
        make: Callable[..., Package] = importlib.import_module("stepaudio2.token2wav").Token2wav
    except ImportError as exc:
        raise SettingsError(
            f"audio.vocoder = {_PACKAGE!r}: {_PACKAGE} {release} cannot be imported, {exc}: run "
            f"`bin/omni install gpu`, {_OR_NATIVE}"
        ) from exc
    return make, release


def use_our_noise(package: Package) -> None:
    """Start the package's flow and its causal source from our noise, which is drawn once for all.

    The package draws its own anew in each process; nothing could be compared then.
    """
    table = package.flow.decoder.rand_noise  # (1, M, frames)
    ours = cfm.fixed_noise(table.shape[1]).t()[None]
    table.copy_(ours[:, :, : table.shape[2]])
    generator = getattr(getattr(package.hift, "m_source", None), "l_sin_gen", None)
    if (waves := getattr(generator, "sine_waves", None)) is not None:  # (1, samples, harmonics)
        ours = hift_causal.fixed_noise().flatten(0, 1)
        repeats = -(-waves.shape[1] // len(ours))
        waves.copy_(ours.repeat(repeats, 1)[None, : waves.shape[1]])
