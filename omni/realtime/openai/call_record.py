"""A call as recorders know calls: hands-free turns, whatever the client's way to end them."""

from attrs import define, field

from omni.engine import (
    AudioChunk,
    Buffer,
    ChatDone,
    Generating,
    Part,
    PrepareHalfDuplex,
    ReplyChunk,
    SessionEvent,
    ToolCall,
    TurnDone,
    UserTranscript,
    VadState,
)
from omni.realtime.openai.items import Item, Message, Text
from omni.recording.recorder import Recorder, Recordings


@define(eq=False, kw_only=True)
class CallRecord:
    """Records one call from its first sound or answer on; one that only opens leaves nothing."""

    recordings: Recordings
    client_id: str
    instructions: str = ""
    _recorder: Recorder | None = field(default=None, init=False)
    _num_turns: int = field(default=0, init=False)
    _is_speaking: bool = field(default=False, init=False)

    def heard(self, pcm: Buffer) -> None:
        """Keep sound of the user: float32, 16 kHz."""
        self._begun().heard(AudioChunk(pcm=pcm))

    def spoke(self, speaking: bool) -> None:
        """Note that the user begins to speak, or has ended."""
        if speaking != self._is_speaking:
            self._is_speaking = speaking
            self._begun().said(VadState(speaking=speaking))

    def wrote(self, item: Item) -> None:
        """Keep what the user wrote instead of saying it."""
        if isinstance(item, Message) and item.role == "user":
            texts = [part.text for part in item.content if isinstance(part, Text)]
            if texts:
                self._begun().said(UserTranscript(text=" ".join(texts)))

    def asked(self, speech_ms: int) -> None:
        """Note that an answer begins."""
        self._begun().said(Generating(speech_duration_ms=speech_ms))

    def said(self, event: SessionEvent) -> None:
        """Keep what an engine said of an answer; the end of a chat is that of a turn here."""
        match event:
            case ReplyChunk() | UserTranscript() | ToolCall():
                self._begun().said(event)
            case ChatDone():
                self.ended(event.text)

    def ended(self, text: str) -> None:
        """Note that an answer is over, with its text so far."""
        self._num_turns += 1
        self._begun().said(TurnDone(turn_index=self._num_turns, text=text))

    def close(self) -> None:
        """The call is over."""
        if self._recorder is not None:
            self._recorder.close()

    def _begun(self) -> Recorder:
        if self._recorder is None:
            recorder = self.recordings.start(self.client_id, "half_duplex_audio", "")
            system = (Part(kind="text", text=self.instructions),) if self.instructions else ()
            recorder.heard(PrepareHalfDuplex(system=system))
            self._recorder = recorder
        return self._recorder
