"""The state of one conversation, and the cheap things that its program may do at once."""

from collections import deque
from collections.abc import Callable, Sequence
from random import Random
from typing import Literal, Protocol

from attrs import define, field, frozen
from torch import Tensor

from omni.audio import INPUT_HZ
from omni.engine import AudioChunk, Buffer, SessionEvent, Slot
from omni.minicpmo.code_sampling import CodeSampling
from omni.minicpmo.images import SlicedImage, decode_image, slice_image
from omni.minicpmo.prompt import Prompts
from omni.minicpmo.speech_codes import SpeechMode
from omni.minicpmo.tokenizer import ControlTokens, Tokenizer
from omni.minicpmo.voice import Voice
from omni.minicpmo.work import Aside, Lane, Program, Until, Waveform, done

#: Chunks that wait for a session's program; when one more comes, the oldest goes unheard.
MAX_WAITING_CHUNKS = 16


class SlotStates(Protocol):
    """What the runner keeps for each slot. Everything here takes effect at once."""

    def kv_length(self, slot: int) -> int:
        """Return the tokens in the KV cache."""

    def truncate(self, slot: int, length: int) -> None:
        """Keep the first *length* tokens."""

    def splice(self, slot: int, start: int, removed: int, inserted: int) -> None:
        """Replace *removed* tokens at *start* by a hole, which a `Feed` with that start fills."""

    def push_sound(self, slot: int, samples: Waveform) -> None:
        """Add to the slot's stream of sound."""

    def has_unit(self, slot: int) -> bool:
        """Say whether a second of the stream waits to be heard."""

    def forget_sound(self, slot: int) -> None:
        """Begin the stream of sound anew."""

    def open_speech(
        self, slot: int, mode: SpeechMode, sampling: CodeSampling, chance: Callable[[], float]
    ) -> None:
        """Begin a turn of the speech-token model."""

    def close_speech(self, slot: int) -> None:
        """End it."""

    def no_hidden(self) -> Tensor:
        """Return (0, C): the states of no tokens."""


class Voices(Protocol):
    """Turns recordings into voices; called in the voice thread only."""

    def analyse(self, samples: Waveform, rate_hz: int) -> Voice:
        """Return the voice in *samples*. Raises: ClientError."""


WindowMode = Literal["off", "basic", "context"]


@frozen(kw_only=True)
class WindowOptions:
    """Defaults: the published ones. marker: stands before the remembered text."""

    mode: WindowMode = "basic"
    high_tokens: int = 4000
    low_tokens: int = 3500
    max_units: int = 24
    max_previous_tokens: int = 500
    marker: str = "\n\nprevious: "


@frozen(kw_only=True, eq=False)
class Surroundings:
    """What all sessions share and none changes.

    default_voice: float32 at 16 kHz. now_s: a clock for costs. window: of duplex sessions.
    max_tokens: of one session's context.
    """

    tokenizer: Tokenizer
    prompts: Prompts
    voices: Voices
    default_voice: Waveform
    now_s: Callable[[], float]
    window: WindowOptions
    max_tokens: int
    uses_image_id: bool


@define(eq=False)
class Session:
    """One conversation in one slot."""

    slot: Slot
    around: Surroundings
    states: SlotStates
    random: Random = field(factory=Random)
    chunks: deque[AudioChunk] = field(factory=deque)
    num_skipped: int = 0
    is_stopped: bool = False
    events: list[SessionEvent] = field(factory=list)

    @property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's tokenizer."""
        return self.around.tokenizer

    @property
    def control(self) -> ControlTokens:
        """The ids of control tokens."""
        return self.around.tokenizer.control

    def emit(self, event: SessionEvent) -> None:
        """Give *event* to whoever drives the engine, after the ones before it."""
        self.events.append(event)

    def now_s(self) -> float:
        """Return a time to measure costs with."""
        return self.around.now_s()

    # --- inputs

    def put(self, chunk: AudioChunk) -> None:
        """Take a chunk for the program. Full: the oldest is dropped and counted (`num_skipped`)."""
        self.chunks.append(chunk)
        if len(self.chunks) > MAX_WAITING_CHUNKS:
            self.chunks.popleft()
            self.num_skipped += 1

    def receive(self) -> Program[AudioChunk]:
        """Wait for the next chunk."""
        yield from done(Until(holds=lambda: bool(self.chunks)))
        return self.chunks.popleft()

    # --- the slot's caches

    @property
    def kv_length(self) -> int:
        """The tokens in the KV cache."""
        return self.states.kv_length(self.slot.index)

    def truncate(self, length: int) -> None:
        """Roll the KV cache back to its first *length* tokens."""
        self.states.truncate(self.slot.index, length)

    def splice(self, start: int, removed: int, inserted: int = 0) -> None:
        """Replace *removed* tokens by a hole of *inserted*, and move what follows.

        The hole must be filled by the next `Feed(start=start)`.
        """
        self.states.splice(self.slot.index, start, removed, inserted)

    def push_sound(self, samples: Waveform) -> None:
        """Add *samples* (float32, 16 kHz) to the stream that `HearUnit` hears."""
        self.states.push_sound(self.slot.index, samples)

    def has_unit(self) -> bool:
        """Say whether a whole second of the stream waits."""
        return self.states.has_unit(self.slot.index)

    def forget_sound(self) -> None:
        """Begin the stream anew: what waits and what was heard."""
        self.states.forget_sound(self.slot.index)

    def open_speech(self, mode: SpeechMode, sampling: CodeSampling) -> None:
        """Begin a spoken turn; `Speak` belongs to it."""
        # Chances of its own: some are drawn ahead of the codes, and words must not miss them.
        chance = Random(self.random.getrandbits(64)).random
        self.states.open_speech(self.slot.index, mode, sampling, chance)

    def close_speech(self) -> None:
        """End the spoken turn, if there is one."""
        self.states.close_speech(self.slot.index)

    def look_at(
        self, frames: Sequence[Buffer], max_slices: int
    ) -> Program[list[SlicedImage]]:
        """Return the pictures of a chunk (compressed files), read. Raises: ClientError."""
        files = [bytes(frame) for frame in frames]
        images = yield from done(
            Aside(
                call=lambda: [slice_image(decode_image(file), max_slices) for file in files],
                lane=Lane.FRAME,
            )
        )
        return images

    def analyse(self, samples: Waveform) -> Program[Voice]:
        """Return the voice of a recording (float32, 16 kHz). Raises: ClientError."""
        voices = self.around.voices
        voice = yield from done(
            Aside(call=lambda: voices.analyse(samples, INPUT_HZ), lane=Lane.VOICE)
        )
        return voice
