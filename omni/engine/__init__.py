"""The engine contract: what a session sends to an engine, what comes back, and how one is driven.

An engine knows no sockets, no sessions' names and no clock of its own: it gets inputs for slots and
gives back events for slots, in `step()`. Tests and benches drive it directly, exactly as the
worker's engine thread does:

    engine = load_engine(settings)
    capabilities = engine.load(wake)
    while running:
        for emission in engine.step(arrivals): ...

Sound is raw little-endian float32 mono in [-1, 1]: 16 kHz towards the engine, 24 kHz back.
Longer than most files: whoever writes an engine finds all that it must know in this one.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NewType, Protocol

from attrs import field, frozen

Mode = Literal["chat", "half_duplex", "audio_duplex", "omni_duplex"]
FinishReason = Literal["stop", "length", "cancelled", "tool_calls"]
#: How the model is told whose voice it has; `default`: not at all.
VoiceMode = Literal["default", "audio_assistant", "omni", "audio_roleplay", "voice_cloning"]

#: Bytes that travel as a message part of their own (sound, pictures). Any bytes-like object.
Buffer = NewType("Buffer", bytes)

EMPTY = Buffer(b"")


@frozen(kw_only=True)
class Capabilities:
    """What a loaded engine can do; travels in the worker's hello.

    engine: `pocket`, `minicpmo` or `null`. model: the name people are shown.
    notice: one honest sentence for the page about what is answering; may be empty.
    num_slots: sessions that it holds at the same time. vision: takes pictures and video.
    transcribes: emits `UserTranscript`. languages: ISO codes it understands and speaks.
    reads_aloud: takes `SpeakRequest`. writes_down: takes `TranscribeRequest`.
    calls_tools: takes functions in a `ChatRequest`, and emits `ToolCall`.
    min_chunk_ms: the shortest duplex chunk it answers; 1000 where units are fixed by training.
    """

    engine: str
    model: str
    modes: tuple[Mode, ...]
    num_slots: int
    notice: str = ""
    vision: bool = False
    transcribes: bool = False
    reads_aloud: bool = False
    writes_down: bool = False
    calls_tools: bool = False
    languages: tuple[str, ...] = ("en",)
    min_chunk_ms: int = 1000


@frozen(kw_only=True)
class Slot:
    """A place in the engine and the tenant it has now. An older generation's events are dropped."""

    index: int
    generation: int


# --- what a session sends ----------------------------------------------------------------------


@frozen(kw_only=True)
class Part:
    """One piece of a message's content.

    text: `text` holds it. image: `data` is a compressed image file. audio: `data` is float32 PCM at
    16 kHz. video: `data` is a whole video file; `stack_frames` pictures are taken a second.
    """

    kind: Literal["text", "image", "audio", "video"]
    text: str = ""
    data: Buffer = field(default=EMPTY, repr=False)
    stack_frames: int = 1


@frozen(kw_only=True)
class Tool:
    """A function that the model may call. parameters: a JSON schema, an object as JSON text."""

    name: str
    description: str = ""
    parameters: str = "{}"


@frozen(kw_only=True)
class ToolCall:
    """A call of a function: an event of a chat, and afterwards part of the conversation.

    id: unique, by which its result names it. arguments: an object as JSON text.
    """

    id: str
    name: str
    arguments: str


@frozen(kw_only=True)
class ChatMessage:
    """One message of a conversation.

    tool_calls: of an assistant, behind its parts. tool_call_id: of a tool; its parts (text) are the
    result of that call.
    """

    role: Literal["system", "user", "assistant", "tool"]
    parts: tuple[Part, ...]
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""


@frozen(kw_only=True)
class SpeechSampling:
    """How the codes of an answer's sound are chosen. window: codes that the penalty looks at."""

    temperature: float = 0.8
    top_p: float = 0.85
    top_k: int = 25
    repetition_penalty: float = 1.05
    window: int = 16


@frozen(kw_only=True)
class ChatRequest:
    """One chat turn. Opens the slot, is answered by `PrefillDone`, `ReplyChunk`s and `ChatDone`.

    messages: the last is the user's, or the result of a call. tools: functions that the model may
    call; each call is a `ToolCall` among the `ReplyChunk`s, and none of its markup is text.
    speak: answer with sound too. voice: reference audio (float32, 16 kHz), empty for the default.
    voice_mode, voice_language: the words that introduce the voice where the conversation has no
    system message. speech: for engines that choose their sound by chance.
    streaming: False where nobody listens before the end: the sound may wait for the whole text.
    stop: texts that end the answer. seed: None draws one.
    """

    messages: tuple[ChatMessage, ...]
    max_new_tokens: int = 512
    min_new_tokens: int = 0
    do_sample: bool = True
    temperature: float = 0.7
    top_p: float = 0.8
    top_k: int = 100
    repetition_penalty: float = 1.02
    length_penalty: float = 1.1
    max_inp_length: int = 8192
    speak: bool = False
    voice: Buffer = field(default=EMPTY, repr=False)
    voice_mode: VoiceMode = "audio_assistant"
    voice_language: Literal["zh", "en"] = "en"
    speech: SpeechSampling = SpeechSampling()
    max_slice_nums: int | None = None
    use_image_id: bool = False
    omni_mode: bool = False
    enable_thinking: bool = False
    streaming: bool = True
    stop: tuple[str, ...] = ()
    seed: int | None = None
    tools: tuple[Tool, ...] = ()


@frozen(kw_only=True)
class SpeakRequest:
    """A text to be read out as it stands. Opens the slot, is answered like a chat that speaks.

    instructions: how to read it, for engines that can be told. voice: as in `ChatRequest`.
    """

    text: str
    voice: Buffer = field(default=EMPTY, repr=False)
    instructions: str = ""
    seed: int | None = None


@frozen(kw_only=True)
class TranscribeRequest:
    """A recording to be written down. Opens the slot; `TranscriptSegment`s, then `ChatDone`.

    pcm: float32, 16 kHz, the whole of it. language: ISO code; "": as it sounds. prompt: words that
    may come up, or the text before. temperature: 0 always takes the likeliest word.
    """

    pcm: Buffer = field(repr=False)
    language: str = ""
    prompt: str = ""
    temperature: float = 0.0
    seed: int | None = None


@frozen(kw_only=True)
class VadParams:
    """Voice activity detection of half duplex; times in ms (spec: the demo protocol's 6.1)."""

    threshold: float = 0.7
    min_speech_duration_ms: int = 128
    min_silence_duration_ms: int = 500
    speech_pad_ms: int = 30


@frozen(kw_only=True)
class PrepareHalfDuplex:
    """Opens a slot for hands-free turns. Answered by `Prepared`."""

    system: tuple[Part, ...] = ()
    vad: VadParams = VadParams()
    max_new_tokens: int = 256
    length_penalty: float = 1.1
    temperature: float = 0.7
    speak: bool = True


@frozen(kw_only=True)
class PrepareDuplex:
    """Opens a slot for full duplex. Answered by `Prepared`; every field is per session.

    voice: reference audio for the model's persona (empty: the engine's default); tts_voice: for its
    sound (empty: as the persona's).
    chunk_ms: the length of chunks that the client means to send; `Prepared` says what was accepted.
    max_turn_tokens: a turn ends after so many tokens of text; None: where the model ends it.
    """

    mode: Literal["audio_duplex", "omni_duplex"]
    system_prompt: str = "You are a helpful assistant."
    voice: Buffer = field(default=EMPTY, repr=False)
    tts_voice: Buffer = field(default=EMPTY, repr=False)
    max_slice_nums: int = 1
    deferred_finalize: bool = True
    generate_audio: bool = True
    force_listen_count: int = 3
    max_new_speak_tokens_per_chunk: int = 20
    decode_mode: Literal["sampling", "greedy"] = "sampling"
    temperature: float = 0.7
    top_k: int = 20
    top_p: float = 0.8
    text_repetition_penalty: float = 1.05
    text_repetition_window_size: int = 512
    length_penalty: float = 1.1
    listen_prob_scale: float = 1.0
    listen_top_k: int | None = None
    tts_temperature: float = 0.8
    max_turn_tokens: int | None = None
    chunk_ms: int = 1000
    seed: int | None = None


@frozen(kw_only=True)
class AudioChunk:
    """A slice of the user's sound, with the pictures of the same time.

    pcm: float32, 16 kHz. frames: compressed image files. In duplex each is one unit and gets
    exactly one `UnitResult`, in order; in half duplex it feeds the VAD. max_slice_nums: None is
    the session's.
    """

    pcm: Buffer = field(repr=False)
    frames: tuple[Buffer, ...] = field(default=(), repr=False)
    force_listen: bool = False
    max_slice_nums: int | None = None


@frozen(kw_only=True)
class StopAnswer:
    """Ends the running answer now. Half duplex: `TurnDone` with what there is; chat: `ChatDone`."""


@frozen(kw_only=True)
class Close:
    """Ends the session. The engine frees all of its state and answers nothing."""


#: What opens a slot.
Opening = ChatRequest | SpeakRequest | TranscribeRequest | PrepareHalfDuplex | PrepareDuplex
SessionInput = Opening | AudioChunk | StopAnswer | Close


# --- what an engine gives back -----------------------------------------------------------------


@frozen(kw_only=True)
class Prepared:
    """The slot is ready. chunk_ms: chunk length accepted.

    prompt_length: tokens of the prompt; audio_tokens of them stand for a voice.
    """

    prompt_length: int = 0
    audio_tokens: int = 0
    chunk_ms: int = 1000


@frozen(kw_only=True)
class StageCosts:
    """Compute time of one unit or turn by stage, in ms; None where the stage did not run."""

    prefill_ms: float | None = None
    llm_ms: float | None = None
    tts_prep_ms: float | None = None
    tts_ms: float | None = None
    token2wav_ms: float | None = None
    all_ms: float | None = None


@frozen(kw_only=True)
class UnitResult:
    """The answer to one `AudioChunk` of a duplex session.

    pcm: float32, 24 kHz; empty when listening. current_time: counter of chunks, from 1.
    interrupted: the user broke in, and what was queued for playing is void. token_ids: what the
    engine chose (control tokens and text), for the journal.
    n_tokens, n_tts_tokens: of text and of speech, made. audio_tokens, vision_tokens, text_tokens:
    taken in, of sound, of pictures, and of text where the engine reads what it heard.
    """

    is_listen: bool
    text: str = ""
    pcm: Buffer = field(default=EMPTY, repr=False)
    end_of_turn: bool = False
    interrupted: bool = False
    current_time: int = 0
    costs: StageCosts = StageCosts()
    n_tokens: int | None = None
    n_tts_tokens: int | None = None
    kv_cache_length: int = 0
    vision_slices: int = 0
    vision_tokens: int = 0
    audio_tokens: int = 0
    text_tokens: int = 0
    token_ids: tuple[int, ...] = ()


@frozen(kw_only=True)
class UserTranscript:
    """What the user said, where the engine knows it. final: the utterance is over."""

    text: str
    final: bool = True


@frozen(kw_only=True)
class VadState:
    """Half duplex: speech began or ended."""

    speaking: bool


@frozen(kw_only=True)
class Generating:
    """Half duplex: the utterance is complete, an answer is being made."""

    speech_duration_ms: int


@frozen(kw_only=True)
class PrefillDone:
    """Chat: the prompt is in."""

    input_tokens: int


@frozen(kw_only=True)
class ReplyChunk:
    """A piece of an answer (chat, half duplex): text, sound (float32, 24 kHz) or both.

    is_final: nothing follows in this turn but `TurnDone` or `ChatDone`.
    """

    text: str = ""
    pcm: Buffer = field(default=EMPTY, repr=False)
    is_final: bool = False


@frozen(kw_only=True)
class TranscriptSegment:
    """What was said in one stretch of a recording, from start_s to end_s of it."""

    start_s: float
    end_s: float
    text: str


@frozen(kw_only=True)
class TurnDone:
    """Half duplex: the turn is over, with its whole text. turn_index counts from 1."""

    turn_index: int
    text: str
    costs: StageCosts = StageCosts()


@frozen(kw_only=True)
class ChatDone:
    """The answer to a chat, a text or a recording is complete. The slot is free afterwards.

    input_tokens, generated_tokens: all of them. Of the input, so many stand for sound and for
    pictures; speech_tokens: made besides, of the answer's sound. 0 where an engine counts none.
    finish_reason: `tool_calls` where the model ended the answer and wants functions called.
    """

    text: str
    input_tokens: int
    generated_tokens: int
    input_audio_tokens: int = 0
    input_image_tokens: int = 0
    speech_tokens: int = 0
    finish_reason: FinishReason = "stop"
    costs: StageCosts = StageCosts()


@frozen(kw_only=True)
class Failed:
    """Something went wrong with this session alone; `code` is one of `errors.RENDERINGS`.

    fatal: the session is over and its slot is free. Otherwise the unit or turn is lost, and what
    the protocol promises for it (`UnitResult`, `TurnDone`) still follows.
    """

    code: str
    message: str
    fatal: bool = False


SessionEvent = (
    Prepared
    | UnitResult
    | UserTranscript
    | VadState
    | Generating
    | PrefillDone
    | ReplyChunk
    | ToolCall
    | TranscriptSegment
    | TurnDone
    | ChatDone
    | Failed
)


@frozen
class Arrival:
    """One input for one slot. The first input of a new generation opens the slot."""

    slot: Slot
    input: SessionInput


@frozen
class Emission:
    """One event of one slot."""

    slot: Slot
    event: SessionEvent


class Engine(Protocol):
    """Holds several sessions and moves all of them forward in `step()`.

    One thread (the engine thread) calls everything here.
    """

    def load(self, wake: Callable[[], None]) -> Capabilities:
        """Load weights, warm up, and say what can be done.

        wake: may be called from any thread when work was finished in the background, so that the
        loop calls `step` although no input came. Raises: CheckpointError, SettingsError.
        """

    def step(self, arrivals: Sequence[Arrival]) -> Sequence[Emission]:
        """Take *arrivals* in order, do one bounded piece of work, and return what became ready.

        A wrong input ends in a `Failed` for its own slot; only EngineDead is ever raised, and then
        the process exits.
        """

    @property
    def busy(self) -> bool:
        """True while `step` should be called again at once, without waiting for inputs."""

    def close(self) -> None:
        """Stop background work and free everything. Nothing is called afterwards."""
