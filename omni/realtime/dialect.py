"""What a dialect is: a pure translation between a client's events and what a session understands.

Towards the session an event becomes a *command*; what the session has to say is a *notice*, which
the dialect writes as frames of the socket. A dialect keeps no state but what was negotiated and
its own counters.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import orjson
from attrs import field, frozen

from omni.engine import (
    AudioChunk,
    ChatDone,
    ChatRequest,
    Generating,
    PrefillDone,
    Prepared,
    PrepareDuplex,
    PrepareHalfDuplex,
    ReplyChunk,
    TurnDone,
    UnitResult,
    UserTranscript,
    VadState,
)
from omni.messages import Queued, Stamp

# --- commands: what a client wants -------------------------------------------------------------


@frozen(kw_only=True)
class Open:
    """Begin: prepare a live session, or answer a chat request.

    timeout_s: longest life of the session; half duplex from here on, full duplex from its slot;
    None: no such limit. stream: give the answer in pieces (chat). input_id: the client's own word
    for this, told with the answer (chat).
    silence_s: longest time without sound; None: the server's own. max_kv_tokens: context at which
    the session ends. recuts: sound of any length is cut anew, into the session's own chunks (full
    duplex).
    """

    input: PrepareDuplex | PrepareHalfDuplex | ChatRequest
    timeout_s: float | None = None
    stream: bool = True
    input_id: str = ""
    silence_s: float | None = None
    max_kv_tokens: int | None = None
    recuts: bool = False


@frozen(kw_only=True)
class Begin:
    """Begin a session of turns, each of which asks for a slot of its own with `Open`."""


@frozen(kw_only=True)
class Generate:
    """Answer the request that was opened before (legacy streaming)."""

    speak: bool
    max_new_tokens: int
    length_penalty: float


@frozen(kw_only=True)
class Sound:
    """A chunk of the user's sound, with its pictures. input_id: told with its answer."""

    chunk: AudioChunk
    input_id: str = ""


@frozen(kw_only=True)
class Pause:
    """Hold the session without sound; timeout_s None: the server's own limit."""

    timeout_s: float | None = None


@frozen(kw_only=True)
class Resume:
    """Go on after a pause."""


@frozen(kw_only=True)
class Interrupt:
    """Cut the running answer; the session goes on."""


@frozen(kw_only=True)
class Stop:
    """End the session."""


@frozen(kw_only=True)
class Diagnose:
    """A record of the client's own measurements; kept, never answered."""

    record: dict[str, object]


@frozen(kw_only=True)
class HandOver:
    """The client speaks another dialect altogether; frame: what it said."""

    frame: bytes = field(repr=False)


Command = Open | Begin | Generate | Sound | Pause | Resume | Interrupt | Stop | Diagnose | HandOver

# --- notices: what a client is told ------------------------------------------------------------


@frozen(kw_only=True)
class Waiting:
    """The session waits in the queue. first: nothing was said about it before."""

    place: Queued
    first: bool


@frozen(kw_only=True)
class QueueDone:
    """The session has its slot."""


@frozen(kw_only=True)
class Ready:
    """The session is prepared. recording_id: "" when nothing is recorded."""

    prepared: Prepared
    session_id: str
    engine: str
    model: str
    timeout_s: float | None
    recording_id: str = ""


@frozen(kw_only=True)
class UnitAnswered:
    """A chunk's result. wall_clock_ms: from its arrival to now. sent_at: Unix seconds.

    dropped: it was never computed, because too many before it were unanswered. stamps: of its way
    through the processes. input_id: of the sound that completed the chunk.
    """

    result: UnitResult
    wall_clock_ms: float
    sent_at: float
    dropped: bool = False
    stamps: tuple[Stamp, ...] = ()
    input_id: str = ""


@frozen(kw_only=True)
class Paused:
    """Paused; ends the session after timeout_s."""

    timeout_s: float


@frozen(kw_only=True)
class Resumed:
    """Goes on."""


@frozen(kw_only=True)
class Interrupted:
    """The running answer was cut."""


@frozen(kw_only=True)
class TimedOut:
    """The session ends because its time is over."""

    reason: str
    elapsed_s: float


@frozen(kw_only=True)
class ContextFull:
    """The session ends because its context is as long as it may be."""


@frozen(kw_only=True)
class Stopped:
    """The session ends as the client wished."""


@frozen(kw_only=True)
class TurnBegun:
    """A turn of a session of turns begins. input_id: as in its `Open`."""

    input_id: str = ""


@frozen(kw_only=True)
class Prefilled:
    """A request has its slot, and waits for `Generate` (legacy streaming)."""

    num_messages: int
    prompt_length: int
    recording_id: str = ""


@frozen(kw_only=True)
class StreamEnded:
    """An answer is complete, or was stopped (legacy streaming). elapsed_s: from `Generate`."""

    done: ChatDone
    session_id: str
    elapsed_s: float
    recording_id: str = ""


@frozen(kw_only=True)
class ChatAnswered:
    """A chat answer is complete. pcm: its sound where it was not streamed (float32, 24 kHz).

    failure: the code of what ended it early; "" where nothing did.
    """

    done: ChatDone
    stream: bool
    pcm: bytes
    recording_id: str = ""
    failure: str = ""


@frozen(kw_only=True)
class Trouble:
    """Something went wrong. text: short and stable; message: what happened and the way out.

    reason: a finer word than the code (`OmniError.reason`), or ""; fatal: the session ends.
    """

    code: str
    text: str
    message: str
    reason: str = ""
    fatal: bool = False


@frozen(kw_only=True)
class RecordingStopped:
    """The session goes on, but what follows is not recorded. reason: why, in plain words."""

    recording_id: str
    reason: str


Notice = (
    Waiting
    | QueueDone
    | Ready
    | UnitAnswered
    | UserTranscript
    | VadState
    | Generating
    | PrefillDone
    | ReplyChunk
    | TurnDone
    | TurnBegun
    | Prefilled
    | StreamEnded
    | ChatAnswered
    | Paused
    | Resumed
    | Interrupted
    | TimedOut
    | ContextFull
    | Stopped
    | RecordingStopped
    | Trouble
)


@frozen
class Frame:
    """One frame of a WebSocket: JSON text, or binary sound.

    work: makes *data* when the frame goes, in a thread, where that costs more than a moment.
    """

    data: bytes
    binary: bool = False
    work: Callable[[], bytes] | None = None


class Dialect(Protocol):
    """Translates for one connection."""

    def parse(self, data: bytes, binary: bool) -> Command:
        """Return what the frame *data* asks for.

        Raises: ProtocolError, and changes nothing then.
        """

    def render(self, notice: Notice) -> Sequence[Frame]:
        """Return the frames that tell *notice*; none where this dialect has no word for it."""


def event(kind: str, /, **fields: object) -> list[Frame]:
    """Return one text frame: a JSON object whose `type` is *kind*."""
    return [Frame(orjson.dumps({"type": kind, **fields}))]
