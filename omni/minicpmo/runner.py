"""The modules and all state of all slots: computes one batch of one phase for many sessions.

One thread owns it. The vocoder has a stream of its own on a GPU, so that it overlaps the language
model; everything else runs in order on the main one.
"""

from collections.abc import Callable, Sequence

import torch
from attrs import frozen
from torch import Tensor

from omni.minicpmo.checkpoint import MiniCpmO
from omni.minicpmo.code_sampling import CodeSampling
from omni.minicpmo.graphs import GraphPool, or_eager
from omni.minicpmo.hearing import Hearing, listen_offline
from omni.minicpmo.images import Patches, PatchGrid
from omni.minicpmo.kv_cache import PagedKVCache
from omni.minicpmo.mel import MAX_PIECE_SAMPLES, MelExtractor
from omni.minicpmo.sampling import TextSampler, to_device
from omni.minicpmo.seeing import Seeing
from omni.minicpmo.speech_codes import RECORDED_CODES, SpeechCall, SpeechCodes, SpeechMode
from omni.minicpmo.thinking import Choose, Thinking
from omni.minicpmo.vocoding import Vocoder, Vocoding
from omni.minicpmo.work import EncodeAudio, EncodeImages, Speak, SpeakOn, Spoken, Waveform

#: Codes that a step adds to each speaking row while others wait to decode; 0.6 ms each on an H100.
CODES_A_STEP = RECORDED_CODES
#: Turns of at most so many tokens have recorded steps: 150 s of speech.
_RECORDED_SPEECH_TOKENS = 4096


@frozen(kw_only=True)
class CacheSizes:
    """Room for the caches that grow with a conversation."""

    num_slots: int
    kv_tokens: int  # of all conversations together
    max_tokens: int  # of one
    speech_tokens: int  # of all spoken turns together
    page_size: int = 32


class Runner:
    """Computes batches. Meets `SlotStates`."""

    def __init__(
        self,
        model: MiniCpmO,
        token2wav: Vocoder,
        sampler: TextSampler,
        sizes: CacheSizes,
        choose: Choose | None = None,
        uses_kernel: bool = True,
    ) -> None:
        """uses_kernel: attention walks the pages where a kernel for it is there."""
        self.model = model
        self.sizes = sizes
        self.token2wav = token2wav
        decoder, weight = model.config.llm.decoder, model.llm.lm_head.weight
        self.device = weight.device
        kv = PagedKVCache(
            num_layers=decoder.num_layers,
            num_kv_heads=decoder.num_kv_heads,
            head_dim=decoder.head_dim,
            num_slots=sizes.num_slots,
            num_pages=sizes.kv_tokens // sizes.page_size + 1,
            page_size=sizes.page_size,
            max_tokens=sizes.max_tokens,
            dtype=weight.dtype,
            device=self.device,
            uses_kernel=uses_kernel,
        )
        pool = GraphPool(self.device)
        num_pages = sizes.speech_tokens // sizes.page_size + 1
        self.thinking = Thinking(model.llm, kv, sampler, pool, choose)
        self.speech = SpeechCodes(
            model.tts, sizes.num_slots, num_pages, sizes.page_size, pool, uses_kernel
        )
        self.seeing = Seeing(model.vision, pool)
        self.hearing = Hearing(model.audio, sizes.num_slots, pool, uses_kernel)
        self.vocoding = Vocoding(token2wav, self.device)
        self._mel = MelExtractor(self.device)

    def record(self, batch_sizes: Sequence[int], voice_codes: int) -> None:
        """Record the graphs of all steps of a fixed shape for these batch sizes.

        voice_codes: of the voice that most sessions speak with.
        """
        with or_eager("vision"):
            self.seeing.record()
        with or_eager("hearing"):
            self.hearing.record(batch_sizes)
        self.thinking.record(batch_sizes)
        with or_eager("speech"):
            self.speech.record(batch_sizes, _RECORDED_SPEECH_TOKENS)
        self.vocoding.record(batch_sizes, voice_codes)

    @property
    def kv(self) -> PagedKVCache:
        """The language model's cache."""
        return self.thinking.kv

    # --- slots

    def release(self, slot: int) -> None:
        """Forget everything of *slot*."""
        self.kv.reset(slot)
        self.speech.close_turn(slot)
        self.hearing.reset(slot)
        self.vocoding.release(slot)

    def kv_length(self, slot: int) -> int:
        return self.kv.length(slot)

    def truncate(self, slot: int, length: int) -> None:
        self.kv.truncate(slot, length)

    def splice(self, slot: int, start: int, removed: int, inserted: int) -> None:
        self.thinking.splice(slot, start, removed, inserted)

    def push_sound(self, slot: int, samples: Waveform) -> None:
        self.hearing.push(slot, samples)

    def has_unit(self, slot: int) -> bool:
        return self.hearing.has_unit(slot)

    def forget_sound(self, slot: int) -> None:
        self.hearing.reset(slot)

    def open_speech(
        self, slot: int, mode: SpeechMode, sampling: CodeSampling, chance: Callable[[], float]
    ) -> None:
        self.speech.open_turn(slot, mode, sampling, chance)

    def close_speech(self, slot: int) -> None:
        self.speech.close_turn(slot)

    def no_hidden(self) -> Tensor:
        return self.thinking.no_hidden()

    # --- seeing and hearing

    def see(self, patches: Sequence[Patches], grids: Sequence[PatchGrid]) -> Tensor:
        """Return (N, 64, C) of N pictures and slices."""
        return self.seeing.see(patches, grids)

    def listen(self, pieces: Sequence[Waveform], sees_all: bool) -> list[Tensor]:
        """Return (tokens, C) for each piece of at most 30 s."""
        mels = [self._mel.offline(piece) for piece in pieces]
        return listen_offline(self.model.audio, mels, sees_all)

    def hear(self, slots: Sequence[int]) -> Tensor:
        """Return (B, 10, C): the next second of each slot's stream."""
        return self.hearing.step(slots)

    # --- speaking

    def begin_speech(self, slots: Sequence[int], works: Sequence[Speak]) -> None:
        """Begin calls; each slot has its first code, or has ended, afterwards."""
        self.speech.start(
            [
                SpeechCall(
                    slot=slot,
                    text_ids=to_device(torch.tensor(work.text_ids, dtype=torch.int64), self.device),
                    hidden=work.hidden,
                    is_turn_end=work.is_turn_end,
                    min_codes=work.min_codes,
                    max_codes=work.max_codes,
                )
                for slot, work in zip(slots, works, strict=True)
            ]
        )

    def speak(self, slots: Sequence[int]) -> None:
        """Add codes to each of *slots* (those whose call goes on): one, or a recorded step's."""
        self.speech.step(slots)

    def spoken(self, slot: int, num_given: int, work: Speak | SpeakOn) -> Spoken | None:
        """Return the codes after the first *num_given*, once there are as many as wanted."""
        state = self.speech.state(slot)
        codes = tuple(state.codes[num_given:])
        if state.is_speaking and (work.num_codes is None or len(codes) < work.num_codes):
            return None
        return Spoken(codes=codes, is_done=not state.is_speaking)


def pieces_of(work: EncodeAudio) -> list[list[Waveform]]:
    """Return the pieces of at most 30 s of each recording."""
    return [
        [
            recording[first : first + MAX_PIECE_SAMPLES]
            for first in range(0, len(recording), MAX_PIECE_SAMPLES)
        ]
        for recording in work.recordings
    ]


def patches_of(work: EncodeImages) -> tuple[list[Patches], list[PatchGrid]]:
    """Return the patches and patch grids of all pictures and slices in order."""
    patches = [each for image in work.images for each in image.patches]
    return patches, [grid for image in work.images for grid in image.patch_grids]
