"""What one session is set to, as `session.update` changes it."""

from collections.abc import Mapping
from typing import Literal

from attrs import evolve, frozen

from omni.engine import Tool
from omni.openai.tools import Choice, read_choice, read_tools
from omni.realtime.binary_sound import SoundForm, sound_form
from omni.realtime.fields import Fields

FormatName = Literal["audio/pcm", "audio/pcmu", "audio/pcma"]
Modality = Literal["text", "audio"]
SessionKind = Literal["realtime", "transcription"]
Eagerness = Literal["low", "medium", "high", "auto"]

KINDS: tuple[SessionKind, ...] = ("realtime", "transcription")
FORMATS: tuple[FormatName, ...] = ("audio/pcm", "audio/pcmu", "audio/pcma")
PCM_HZ = 24_000
_BETA_FORMATS: Mapping[str, FormatName] = {
    "pcm16": "audio/pcm",
    "g711_ulaw": "audio/pcmu",
    "g711_alaw": "audio/pcma",
}
_EAGERNESS: tuple[Eagerness, ...] = ("low", "medium", "high", "auto")
#: The longest silence within a turn that each eagerness waits for. OpenAI waits at most 8, 4 and
#: 2 s for a sentence that its model deems unfinished; ours judges by silence alone.
SILENCE_OF_EAGERNESS_MS: Mapping[Eagerness, int] = {
    "low": 1200,
    "medium": 700,
    "high": 350,
    "auto": 700,
}
MAX_TOKENS = 4096
MAX_NAME_CHARS = 256
MAX_LANGUAGES = 64


@frozen(kw_only=True)
class TurnDetection:
    """When the server ends the user's turn, and what it does then."""

    kind: Literal["server_vad", "semantic_vad"] = "server_vad"
    threshold: float = 0.5
    prefix_padding_ms: int = 300
    silence_duration_ms: int = 500
    create_response: bool = True
    interrupt_response: bool = True
    eagerness: Eagerness = "auto"

    @property
    def silence_ms(self) -> int:
        """The silence that ends a turn."""
        if self.kind == "semantic_vad":
            return SILENCE_OF_EAGERNESS_MS[self.eagerness]
        return self.silence_duration_ms


@frozen(kw_only=True)
class Transcription:
    """What the user wants written down. model: accepted as it stands, the engine's own is used."""

    model: str = ""
    language: str = ""
    prompt: str = ""


@frozen(kw_only=True)
class SessionConfig:
    """max_output_tokens: None for no limit of its own. speed and noise_reduction: kept, unused.

    kind: whether what the user says is answered, or only written down. sound: base64 in events, as
    OpenAI has it, or one of our forms of binary frames.
    """

    model: str
    kind: SessionKind = "realtime"
    voice: str = "default"
    instructions: str = ""
    output_modality: Modality = "audio"
    input_format: FormatName = "audio/pcm"
    output_format: FormatName = "audio/pcm"
    turn_detection: TurnDetection | None = TurnDetection()
    transcription: Transcription | None = None
    noise_reduction: str | None = None
    speed: float = 1.0
    temperature: float | None = None
    tools: tuple[Mapping[str, object], ...] = ()
    tool_choice: Choice = "auto"
    max_output_tokens: int | None = None
    sound: SoundForm = "base64"

    @property
    def answers_turns(self) -> bool:
        """True where the server answers by itself what it takes for a turn."""
        rules = self.turn_detection
        return self.kind == "realtime" and rules is not None and rules.create_response


def new_config(model: str, kind: SessionKind = "realtime") -> SessionConfig:
    """Return how a session begins of which nothing but its kind is known."""
    return _with_transcripts(SessionConfig(model=model, kind=kind))


def updated(config: SessionConfig, session: Fields) -> SessionConfig:
    """Return *config* with what *session* says, in the present form or the beta's flat one.

    Raises: FieldError.
    """
    config = evolve(config, kind=session.choice("type", config.kind, KINDS))
    sound = session.section("audio")
    config = _with_input(config, sound.section("input"))
    config = _with_output(config, sound.section("output"))
    config = _with_transcripts(_with_flat_fields(config, session))
    return evolve(
        config,
        instructions=session.text("instructions", config.instructions),
        output_modality=modality(session, "output_modalities", config.output_modality),
        tools=given_tools(session, config.tools),
        tool_choice=read_choice(session, config.tool_choice),
        max_output_tokens=max_tokens(session, "max_output_tokens", config.max_output_tokens),
        sound=sound_form(session) if session.has("sound") else config.sound,
    )


def modality(fields: Fields, name: str, default: Modality) -> Modality:
    """Return what answers are made of: audio has its transcript with it."""
    chosen = fields.items(name, 2)
    if not fields.has(name):
        return default
    if not chosen or any(entry not in ("text", "audio") for entry in chosen):
        raise fields.wrong(name, 'either ["text"] or ["audio"] is expected')
    return "audio" if "audio" in chosen else "text"


def max_tokens(fields: Fields, name: str, default: int | None) -> int | None:
    """Return the longest answer; None for "inf"."""
    if fields.values.get(name) == "inf":
        return None
    return fields.whole(name, 1, 1, MAX_TOKENS) if fields.has(name) else default


def given_tools(
    fields: Fields, default: tuple[Mapping[str, object], ...]
) -> tuple[Mapping[str, object], ...]:
    """Return the functions under `tools`, which can be read, as they were given."""
    if not fields.has("tools"):
        return default
    most = len(read_tools(fields, is_nested=False))
    return tuple(tool.values for tool in fields.objects("tools", most))


def functions(given: tuple[Mapping[str, object], ...], choice: Choice) -> tuple[Tool, ...]:
    """Return what an engine is told of functions that were *given*."""
    return read_tools(Fields({"tools": list(given)}), is_nested=False) if choice == "auto" else ()


def voice_name(output: Fields, default: str) -> str:
    """Return the name of the voice, given as a text or as an object with an id."""
    if isinstance(output.values.get("voice"), Mapping):
        return output.section("voice").text("id", default, MAX_NAME_CHARS)
    return output.text("voice", default, MAX_NAME_CHARS)


def sound_format(fields: Fields, name: str, default: FormatName) -> FormatName:
    """Return a format of sound: an object with a type, or the beta's word."""
    given = fields.values.get(name)
    if isinstance(given, str):
        if given not in _BETA_FORMATS:
            raise fields.wrong(name, f"not one of {', '.join(_BETA_FORMATS)}")
        return _BETA_FORMATS[given]
    chosen = fields.section(name)
    kind = chosen.choice("type", default, FORMATS)
    if kind == "audio/pcm":
        chosen.whole("rate", PCM_HZ, PCM_HZ, PCM_HZ)
    return kind


def _with_input(config: SessionConfig, given: Fields) -> SessionConfig:
    return evolve(
        config,
        input_format=sound_format(given, "format", config.input_format),
        turn_detection=_turn_detection(given, "turn_detection", config.turn_detection),
        transcription=_transcription(given, "transcription", config.transcription),
        noise_reduction=_noise_reduction(given, config.noise_reduction),
    )


def _with_output(config: SessionConfig, given: Fields) -> SessionConfig:
    return evolve(
        config,
        output_format=sound_format(given, "format", config.output_format),
        voice=voice_name(given, config.voice),
        speed=given.number("speed", config.speed, 0.25, 4.0),
    )


def _with_transcripts(config: SessionConfig) -> SessionConfig:
    """Return *config* with transcripts on, where there is nothing else to wait for."""
    if config.kind == "realtime" or config.transcription is not None:
        return config
    return evolve(config, transcription=Transcription(model=config.model))


def _with_flat_fields(config: SessionConfig, given: Fields) -> SessionConfig:
    """Take what stood directly in the session of the beta."""
    most = max_tokens(given, "max_response_output_tokens", config.max_output_tokens)
    return evolve(
        config,
        voice=voice_name(given, config.voice),
        output_modality=modality(given, "modalities", config.output_modality),
        input_format=sound_format(given, "input_audio_format", config.input_format),
        output_format=sound_format(given, "output_audio_format", config.output_format),
        turn_detection=_turn_detection(given, "turn_detection", config.turn_detection),
        transcription=_transcription(given, "input_audio_transcription", config.transcription),
        temperature=given.number("temperature", config.temperature or 0.8, 0, 2)
        if given.has("temperature")
        else config.temperature,
        max_output_tokens=most,
    )


def _turn_detection(
    fields: Fields, name: str, default: TurnDetection | None
) -> TurnDetection | None:
    """Return the rules under *name*; null there means that the client ends turns itself."""
    if name not in fields.values:
        return default
    if fields.values[name] is None:
        return None
    given, base = fields.section(name), TurnDetection()
    return TurnDetection(
        kind=given.choice("type", base.kind, ("server_vad", "semantic_vad")),
        threshold=given.number("threshold", base.threshold, 0, 1),
        prefix_padding_ms=given.whole("prefix_padding_ms", base.prefix_padding_ms, 0, 5000),
        silence_duration_ms=given.whole(
            "silence_duration_ms", base.silence_duration_ms, 32, 10_000
        ),
        create_response=given.flag("create_response", base.create_response),
        interrupt_response=given.flag("interrupt_response", base.interrupt_response),
        eagerness=given.choice("eagerness", base.eagerness, _EAGERNESS),
    )


def _transcription(
    fields: Fields, name: str, default: Transcription | None
) -> Transcription | None:
    if name not in fields.values:
        return default
    if fields.values[name] is None:
        return None
    given = fields.section(name)
    return Transcription(
        model=given.text("model", max_chars=MAX_NAME_CHARS),
        language=_language(given),
        prompt=given.text("prompt"),
    )


def _language(given: Fields) -> str:
    """Return the one language that is named; later models take a list, which may name several."""
    several = given.items("languages", MAX_LANGUAGES)
    only = several[0] if len(several) == 1 and isinstance(several[0], str) else ""
    return given.text("language", only, MAX_NAME_CHARS)[:MAX_NAME_CHARS]


def _noise_reduction(given: Fields, default: str | None) -> str | None:
    if "noise_reduction" not in given.values:
        return default
    if given.values["noise_reduction"] is None:
        return None
    section = given.section("noise_reduction")
    return section.choice("type", "near_field", ("near_field", "far_field"))
