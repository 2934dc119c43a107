"""Every message between processes: frozen values; `MESSAGES` maps kind on the wire to class.

Session messages (the engine contract's own inputs and events) are routed by the header and never
opened by the broker. Fabric messages are for the broker or come from it. `docs/protocol.md` is the
text of this; a change here changes it and `PROTOCOL_VERSION` in the same commit. Longer than
most files: it is one list of values.
"""

from typing import Literal, NamedTuple

from attrs import frozen

from omni import engine
from omni.engine import Capabilities

PROTOCOL_VERSION = 5

RequestType = Literal["chat", "half_duplex_audio", "audio_duplex", "omni_duplex", "streaming"]
Role = Literal["web", "worker", "launcher", "cli"]
PeerState = Literal["loading", "ready", "draining", "error"]


class Stamp(NamedTuple):
    """When a message passed a place on its way; nanoseconds of the host's monotonic clock."""

    hop: str
    at_ns: int


@frozen(kw_only=True)
class Header:
    """The first part of every message; all that the broker reads of session messages.

    session: routing key of a session, unique for each connection ("" for fabric messages).
    seq: counts one sender's session messages from 1. generation: of the slot, 0 until leased.
    ack: the highest seq of the other end that has arrived at the sender of this message; of a web:
    that the session's client has taken.
    """

    kind: str
    session: str = ""
    seq: int = 0
    generation: int = 0
    ack: int = 0
    stamps: tuple[Stamp, ...] = ()
    version: int = PROTOCOL_VERSION


# --- liveness ----------------------------------------------------------------------------------


@frozen(kw_only=True)
class HeldLease:
    """A lease that a peer holds; reported in hello, so that a new broker can rebuild its table.

    elapsed_s: how long ago it began. client_id: the session id that the client knows.
    received_seq: the highest seq that this peer has received from the other end.
    """

    session: str
    request_type: RequestType
    worker: str
    slot: int
    generation: int
    client_id: str = ""
    elapsed_s: float = 0.0
    received_seq: int = 0


@frozen(kw_only=True)
class Hello:
    """First message of every peer, and again whenever it meets a new broker.

    name: `worker-0`, `web-0`: stable over restarts. capabilities: of a worker once it is ready.
    """

    role: Role
    name: str
    pid: int
    host: str
    state: PeerState = "ready"
    gpu: str = ""
    capabilities: Capabilities | None = None
    leases: tuple[HeldLease, ...] = ()


@frozen(kw_only=True)
class Welcome:
    """The broker knows the peer now. broker_id: differs after every start of the broker."""

    broker_id: str
    heartbeat_interval_s: float
    heartbeat_misses: int


@frozen(kw_only=True)
class Refused:
    """The broker will not talk to this peer.

    `version`: another protocol version; final. `name_taken`: another process has the name; say
    hello again later. `unknown_peer`: the broker does not know the sender; say hello now.
    """

    code: str
    message: str


@frozen(kw_only=True)
class Heartbeat:
    """Proof of life. A worker's comes from its engine loop; steps counts the loop's rounds.

    load: slots in use, as the worker itself sees them.
    """

    state: PeerState = "ready"
    steps: int = 0
    load: int = 0


@frozen(kw_only=True)
class Goodbye:
    """The sender leaves on purpose."""

    reason: str = ""


@frozen(kw_only=True)
class PeerExited:
    """The launcher's word that a child process is gone; faster than missed heartbeats.

    given_up: it will not be started again.
    """

    name: str
    pid: int
    given_up: bool = False


# --- queue and leases: web -> broker ------------------------------------------------------------


@frozen(kw_only=True)
class Enqueue:
    """Ask for a slot for header.session. Answered by `Leased`, `Queued` or `TicketEnded`.

    Saying it again changes nothing. waited_s: how long it has waited already, at another broker.
    """

    request_type: RequestType
    client_id: str
    waited_s: float = 0.0


@frozen(kw_only=True)
class Release:
    """header.session is over, or its ticket is no longer wanted. Always safe to send."""


@frozen(kw_only=True)
class CancelTicket:
    """End somebody's waiting ticket. Answered by `Answer`."""

    request: int
    ticket_id: str


@frozen(kw_only=True)
class EtaConfig:
    """Expected durations until measured; `PUT /api/config/eta`. ema_alpha None keeps it."""

    eta_chat_s: float = 15.0
    eta_half_duplex_s: float = 180.0
    eta_audio_duplex_s: float = 120.0
    eta_omni_duplex_s: float = 90.0
    eta_streaming_s: float | None = None
    ema_alpha: float | None = None


@frozen(kw_only=True)
class SetEta:
    """Replace the ETA configuration. Answered by `Answer`."""

    request: int
    config: EtaConfig


@frozen(kw_only=True)
class StatusQuery:
    """Ask for `Status`."""

    request: int


@frozen(kw_only=True)
class Drain:
    """Take no new leases: of one worker, or of all ("")."""

    request: int
    worker: str = ""


# --- queue and leases: broker -> web and worker --------------------------------------------------


@frozen(kw_only=True)
class Queued:
    """header.session waits. Sent at once, at every change of position, and every 3 s besides."""

    ticket_id: str
    position: int
    estimated_wait_s: float
    queue_length: int


@frozen(kw_only=True)
class Leased:
    """header.session has a slot (generation in the header). Goes to web and worker."""

    worker: str
    gpu: str
    slot: int
    request_type: RequestType
    client_id: str
    ticket_id: str
    capabilities: Capabilities


@frozen(kw_only=True)
class TicketEnded:
    """header.session gets no slot: `queue_full`, `no_worker`, `cancelled`."""

    code: str
    message: str
    retry_after_s: float = 5.0


@frozen(kw_only=True)
class Revoked:
    """The lease of header.session ended against its will.

    To its web: `worker_lost`, `lease_expired`, ... To its worker: the web is gone or released it;
    free the slot and send `SlotFreed`.
    """

    code: str
    message: str


@frozen(kw_only=True)
class Rejoined:
    """A lease reported in hello is whole again: both of its ends have found this broker.

    received_seq: the highest seq that the other end has; send again what is above it. None: nothing
    was lost, go on.
    """

    received_seq: int | None = None


@frozen(kw_only=True)
class Ack:
    """Web -> worker: the session's client takes its events; header.ack is all there is to say.

    Sent where no message of the session carried the number for long. It is not numbered itself.
    """


@frozen(kw_only=True)
class SlotFreed:
    """Worker -> broker: the slot of header.session and header.generation is empty again."""


@frozen(kw_only=True)
class TicketView:
    """A waiting ticket, as status and `/api/queue` show it. enqueued_at: Unix seconds."""

    ticket_id: str
    request_type: RequestType
    client_id: str
    position: int
    estimated_wait_s: float
    enqueued_at: float
    waited_s: float


@frozen(kw_only=True)
class TaskView:
    """A running session. started_at: Unix seconds."""

    worker: str
    request_type: RequestType
    client_id: str
    started_at: float
    elapsed_s: float
    estimated_remaining_s: float


@frozen(kw_only=True)
class WorkerView:
    """A worker as the broker sees it. last_heartbeat: Unix seconds."""

    name: str
    state: Literal["offline", "loading", "ready", "probation", "draining", "error"]
    gpu: str
    host: str
    pid: int
    num_slots: int
    tasks: tuple[TaskView, ...]
    total_requests: int
    mean_duration_ms: float
    last_heartbeat: float
    restarts: int
    capabilities: Capabilities | None


@frozen(kw_only=True)
class EtaView:
    """What the estimates rest on; None until the first sample of a type."""

    config: EtaConfig
    ema_alpha: float
    ema_s: dict[str, float | None]
    samples: dict[str, int]


@frozen(kw_only=True)
class Status:
    """Everything that the broker knows, at one moment."""

    request: int
    uptime_s: float
    max_queue_size: int
    tickets: tuple[TicketView, ...]
    workers: tuple[WorkerView, ...]
    webs: tuple[str, ...]
    eta: EtaView
    counters: dict[str, int]


@frozen(kw_only=True)
class Answer:
    """The broker's answer to a request that only succeeds or fails."""

    request: int
    ok: bool
    message: str = ""


Message = (
    Hello
    | Welcome
    | Refused
    | Heartbeat
    | Goodbye
    | PeerExited
    | Enqueue
    | Release
    | CancelTicket
    | SetEta
    | StatusQuery
    | Drain
    | Queued
    | Leased
    | TicketEnded
    | Revoked
    | Rejoined
    | Ack
    | SlotFreed
    | Status
    | Answer
    | engine.SessionInput
    | engine.SessionEvent
)

#: Kinds that the broker routes by header.session, unopened: web -> worker, and worker -> web.
TO_WORKER: dict[str, type] = {
    "chat_request": engine.ChatRequest,
    "speak_request": engine.SpeakRequest,
    "transcribe_request": engine.TranscribeRequest,
    "prepare_half_duplex": engine.PrepareHalfDuplex,
    "prepare_duplex": engine.PrepareDuplex,
    "audio_chunk": engine.AudioChunk,
    "stop_answer": engine.StopAnswer,
    "close": engine.Close,
    "ack": Ack,
}
TO_WEB: dict[str, type] = {
    "prepared": engine.Prepared,
    "unit_result": engine.UnitResult,
    "user_transcript": engine.UserTranscript,
    "vad_state": engine.VadState,
    "generating": engine.Generating,
    "prefill_done": engine.PrefillDone,
    "reply_chunk": engine.ReplyChunk,
    "tool_call": engine.ToolCall,
    "transcript_segment": engine.TranscriptSegment,
    "turn_done": engine.TurnDone,
    "chat_done": engine.ChatDone,
    "failed": engine.Failed,
}
FABRIC: dict[str, type] = {
    "hello": Hello,
    "welcome": Welcome,
    "refused": Refused,
    "heartbeat": Heartbeat,
    "goodbye": Goodbye,
    "peer_exited": PeerExited,
    "enqueue": Enqueue,
    "release": Release,
    "cancel_ticket": CancelTicket,
    "set_eta": SetEta,
    "status_query": StatusQuery,
    "drain": Drain,
    "queued": Queued,
    "leased": Leased,
    "ticket_ended": TicketEnded,
    "revoked": Revoked,
    "rejoined": Rejoined,
    "slot_freed": SlotFreed,
    "status": Status,
    "answer": Answer,
}
MESSAGES: dict[str, type] = {**FABRIC, **TO_WORKER, **TO_WEB}
KINDS: dict[type, str] = {cls: kind for kind, cls in MESSAGES.items()}
