"""The files of a session of turns (chat, half duplex), made from its journal."""

from collections import deque
from pathlib import Path
from typing import Any

from attrs import define, field

from omni.audio import INPUT_HZ, OUTPUT_HZ, Waveform, seconds
from omni.engine import (
    AudioChunk,
    ChatDone,
    ChatRequest,
    Failed,
    Generating,
    Part,
    ReplyChunk,
    ToolCall,
    TurnDone,
    UserTranscript,
    VadState,
)
from omni.recording.journal import Record
from omni.recording.layout import AI_AUDIO, USER_AUDIO, USER_IMAGES, USER_VIDEOS
from omni.recording.media import WavFile, film_suffix, write_picture, write_wav
from omni.recording.meta import text_of
from omni.recording.sound import waveform_of

Document = dict[str, Any]

#: Sound kept from before the voice detection says that speech began: it says so late.
_PRE_ROLL_S = 1.0


@define
class _Turn:
    """A turn on its way."""

    index: int
    asked_at: float
    input: Document
    said: list[str] = field(factory=list)
    calls: list[Document] = field(factory=list)
    sound: WavFile | None = None
    error: str = ""


@define
class TurnFiles:
    """Writes what each record holds; `document` says what came of it."""

    folder: Path
    _turns: list[Document] = field(factory=list, init=False)
    _turn: _Turn | None = field(default=None, init=False)
    _before: deque[Waveform] = field(factory=deque, init=False)
    _speech: WavFile | None = field(default=None, init=False)
    _is_heard: bool = field(default=False, init=False)
    _transcript: str = field(default="", init=False)
    _num_saved: dict[str, int] = field(factory=dict, init=False)
    _last_s: float = field(default=0.0, init=False)

    def take(self, record: Record) -> None:
        """Add one record. Raises: OSError."""
        self._last_s = at_s = record.at_s
        match record.item:
            case ChatRequest() as request:
                self._begin(at_s, self._save_request(request))
            case AudioChunk(pcm=pcm):
                self._hear(waveform_of(pcm))
            case VadState(speaking=speaking):
                self._is_heard = speaking
                if speaking:
                    self._begin_speech()
            case UserTranscript(text=text, final=True):
                self._take_transcript(text)
            case Generating(speech_duration_ms=speech_ms):
                self._begin(at_s, self._end_speech(speech_ms))
            case ReplyChunk() as piece:
                self._reply(piece)
            case ToolCall(name=name, arguments=arguments) if self._turn is not None:
                self._turn.calls.append({"name": name, "arguments": arguments})
            case TurnDone(text=text):
                self._end(text, {})
            case ChatDone() as done:
                tokens = {"tokens": done.generated_tokens, "input_tokens": done.input_tokens}
                self._end(done.text, tokens)
            case Failed(message=message) if self._turn is not None:
                self._turn.error = message

    def document(self) -> Document:
        """Return what recording.json says beyond what all sessions have."""
        self._end(None, {})
        if self._speech is not None:  # nobody answered it
            self._speech.close()
        return {"turns": self._turns}

    # --- what the user said ---

    def _save_request(self, request: ChatRequest) -> Document:
        """Save the media of all user messages; text and sound are those of the last one.

        Viewers play the sound as what the user said: not the voice in a system message, nor what
        was said some turns ago.
        """
        images: list[str] = []
        videos: list[str] = []
        sound, text = "", ""
        for message in (message for message in request.messages if message.role == "user"):
            sound, text = "", text_of(message)
            for part in message.parts:
                match part.kind:
                    case "image":
                        images += self._save_image(part)
                    case "video":
                        videos.append(self._save_video(part))
                    case "audio":
                        sound = self._save_sound(part)
        asked: Document = {}
        if text:
            asked["text"] = text
        if sound:
            asked["audio"] = sound
        if images:
            asked["images"] = images
        if videos:
            asked["videos"] = videos
        return asked

    def _save_image(self, part: Part) -> list[str]:
        name = f"{USER_IMAGES}/img_{self._count(USER_IMAGES)}.jpg"
        return [name] if write_picture(self.folder / name, part.data) else []

    def _save_video(self, part: Part) -> str:
        name = f"{USER_VIDEOS}/vid_{self._count(USER_VIDEOS)}{film_suffix(part.data)}"
        (self.folder / name).write_bytes(part.data)
        return name

    def _save_sound(self, part: Part) -> str:
        name = f"{USER_AUDIO}/{self._count(USER_AUDIO):03d}.wav"
        write_wav(self.folder / name, waveform_of(part.data), INPUT_HZ)
        return name

    def _count(self, kind: str) -> int:
        number = self._num_saved.get(kind, 0)
        self._num_saved[kind] = number + 1
        return number

    def _hear(self, samples: Waveform) -> None:
        if self._speech is not None and self._is_heard:
            self._speech.append(samples)
            return
        self._before.append(samples)
        held = sum(piece.size for piece in self._before)
        while held - self._before[0].size >= _PRE_ROLL_S * INPUT_HZ:
            held -= self._before.popleft().size

    def _begin_speech(self) -> None:
        if self._speech is not None:  # the last stretch was too short to be a turn
            self._speech.close()
            self._num_saved[USER_AUDIO] -= 1
        name = f"{USER_AUDIO}/{self._count(USER_AUDIO):03d}.wav"
        self._speech = WavFile(self.folder / name, INPUT_HZ)
        for piece in self._before:
            self._speech.append(piece)
        self._before.clear()

    def _end_speech(self, speech_ms: int) -> Document:
        heard: Document = {"type": "voice", "duration_ms": speech_ms}
        if self._speech is not None:
            heard["audio"] = str(self._speech.path.relative_to(self.folder))
            self._speech.close()
            self._speech = None
        if self._transcript:
            heard["text"], self._transcript = self._transcript, ""
        return heard

    def _take_transcript(self, text: str) -> None:
        """Note what was said, which some engines know before they answer and some after."""
        if self._turn is not None and "text" not in self._turn.input:
            self._turn.input["text"] = text
        else:
            self._transcript = f"{self._transcript} {text}".strip()

    # --- what was answered ---

    def _begin(self, at_s: float, asked: Document) -> None:
        self._end(None, {})
        self._turn = _Turn(len(self._turns), at_s, asked)

    def _reply(self, piece: ReplyChunk) -> None:
        if (turn := self._turn) is None:
            return
        turn.said.append(piece.text)
        if len(piece.pcm):
            if turn.sound is None:
                path = self.folder / AI_AUDIO / f"turn_{turn.index}.wav"
                turn.sound = WavFile(path, OUTPUT_HZ)
            turn.sound.append(waveform_of(piece.pcm))

    def _end(self, text: str | None, tokens: Document) -> None:
        """Close the turn, if one is open. text: None where the session ended in its midst."""
        if (turn := self._turn) is None:
            return
        self._turn = None
        answered: Document = {"text": "".join(turn.said) if text is None else text}
        if turn.calls:
            answered["tool_calls"] = turn.calls
        if turn.sound is not None:
            turn.sound.close()
            answered["audio"] = str(turn.sound.path.relative_to(self.folder))
            duration_s = seconds(turn.sound.num_samples, OUTPUT_HZ)
            answered["audio_duration_ms"] = round(duration_s * 1000, 1)
        if turn.error:
            answered["error"] = turn.error
        if text is None:
            answered["interrupted"] = True
        timing: Document = {"elapsed_ms": round((self._last_s - turn.asked_at) * 1000, 1), **tokens}
        if turn.input.get("type") == "voice":
            timing["speech_input_ms"] = turn.input["duration_ms"]
        self._turns.append(
            {
                "turn_index": turn.index,
                "request_ts_ms": round(turn.asked_at * 1000, 1),
                "input": turn.input,
                "output": answered,
                "timing": timing,
            }
        )
