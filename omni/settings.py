"""Every setting: frozen sections <- settings.toml <- OMNI_* <- command line.

Each has a default and help. A section goes to the class that needs it; nobody gets the whole.
`load_settings` is the only way in. Longer than most files: two thirds are the table of settings.
"""

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from attrs import Attribute, Factory, evolve, field, fields, frozen

from omni.errors import SettingsError

ENV_PREFIX = "OMNI_"


def _setting(
    default: Any,  # the type stands at the field
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
) -> Any:
    """Return an attrs field with its *help* line and its inclusive bounds."""
    return field(default=default, metadata={"help": help, "low": low, "high": high})


@frozen(kw_only=True)
class ModelSettings:
    """Which model answers."""

    engine: Literal["auto", "pocket", "minicpmo", "null"] = _setting(
        "auto", "which engine answers; auto: minicpmo where model_path is set, else pocket"
    )
    model_path: str = _setting(
        "", "directory, Hugging Face id or ModelScope id of the MiniCPM-o checkpoint"
    )
    pt_path: str = _setting("", "state dict (.pt, loaded weights_only) that overrides the weights")
    attn_implementation: Literal["auto", "flash_attention_2", "sdpa", "eager"] = _setting(
        "auto", "flash_attention_2: own kernels (GPU, Triton); auto: the fastest that is there"
    )


@frozen(kw_only=True)
class AudioSettings:
    """Voices and playback."""

    ref_audio_path: str = _setting("", "default reference voice (wav); empty: the model's own")
    playback_delay_ms: int = _setting(
        200, "how long the browser collects sound before it plays", low=0, high=2000
    )
    chat_vocoder: Literal["token2wav", "cosyvoice2"] = _setting(
        "token2wav", "vocoder family of chat answers"
    )
    vocoder: Literal["native", "minicpmo-utils"] = _setting(
        "native",
        "our own, or minicpmo-utils as a check on a GPU (1.0.6 for the published five files)",
    )
    max_voices: int = _setting(500, "uploaded voices that are kept", low=0, high=100_000)
    max_voices_s: float = _setting(7200.0, "how long they may be, all together", low=0)


@frozen(kw_only=True)
class ServiceSettings:
    """The service as a whole: port, queue, estimates, data."""

    gateway_port: int = _setting(8006, "port of the web process", low=0, high=65535)
    worker_base_port: int = _setting(
        22400,
        "not used: of the demo, whose workers listen; ours are found by fabric.broker_url",
        low=1,
        high=65535,
    )
    max_queue_size: int = _setting(1000, "tickets that may wait at once", low=0, high=1_000_000)
    request_timeout: float = _setting(300.0, "longest chat request, queue included, in s", low=1)
    compile: bool = _setting(
        False, "torch.compile picture encoder and vocoder (`omni precompile` does it ahead)"
    )
    data_dir: str = _setting("data", "directory of recordings, voices and converted weights")
    eta_chat_s: float = _setting(15.0, "expected duration of a chat until it is measured", low=0)
    eta_streaming_s: float = _setting(20.0, "the same for legacy streaming chat", low=0)
    eta_half_duplex_s: float = _setting(180.0, "the same for a half-duplex session", low=0)
    eta_audio_duplex_s: float = _setting(120.0, "the same for an audio duplex session", low=0)
    eta_omni_duplex_s: float = _setting(90.0, "the same for an omni duplex session", low=0)
    eta_ema_alpha: float = _setting(
        0.3, "weight of the newest duration in the moving average, in (0, 1]", low=1e-6, high=1
    )
    eta_ema_min_samples: int = _setting(
        3, "durations measured before the average replaces the expected value", low=1
    )


@frozen(kw_only=True)
class DuplexSettings:
    """Full-duplex sessions."""

    pause_timeout: float = _setting(60.0, "longest pause before the session ends, in s", low=1)
    sliding_window_mode: Literal["off", "basic", "context"] = _setting(
        "basic",
        "what a long call forgets: nothing, its oldest seconds, or all of them but the words",
    )
    basic_window_high_tokens: int = _setting(
        4000, "basic: tokens from which the oldest units are dropped", low=100, high=40_000
    )
    basic_window_low_tokens: int = _setting(
        3500, "basic: tokens that are left when units are dropped", low=50, high=40_000
    )
    context_max_units: int = _setting(
        24, "context: units that stay with sound and pictures", low=1, high=3000
    )
    context_previous_max_tokens: int = _setting(
        500, "context: tokens of the earlier answers that stay as text", low=1, high=8000
    )


@frozen(kw_only=True)
class FabricSettings:
    """Processes, sockets between them, liveness and restarts."""

    workers: int = _setting(0, "worker processes; 0: one per GPU, or one on a CPU", low=0, high=64)
    slots: int = _setting(0, "sessions per worker; 0: as many as the engine says", low=0, high=1024)
    run_dir: str = _setting("tmp", "directory of pid files, logs and ipc sockets")
    broker_url: str = _setting(
        "", "where webs and workers find the broker (tcp://host); empty: ipc under run_dir"
    )
    heartbeat_interval_s: float = _setting(0.25, "time between heartbeats", low=0.01, high=60)
    heartbeat_misses: int = _setting(4, "missed heartbeats until a peer is lost", low=1, high=1000)
    lease_timeout_s: float = _setting(
        30.0, "how long sessions go on without a broker, and tickets without a worker", low=0.1
    )
    rejoin_grace_s: float = _setting(
        2.0, "after a broker start, how long workers and webs may take to report old leases", low=0
    )
    max_inflight_messages: int = _setting(
        1024, "high-water mark of every socket, in messages", low=8, high=1_000_000
    )
    inbox_size: int = _setting(
        256, "inputs that wait in front of the engine, all sessions together", low=8
    )
    start_timeout_s: float = _setting(
        900.0, "longest time until a process must be ready (model download included)", low=1
    )
    stop_timeout_s: float = _setting(5.0, "time to stop before a process is killed", low=0.1)
    drain_timeout_s: float = _setting(30.0, "time for running sessions when draining", low=0)
    restart_backoff_s: float = _setting(0.2, "first pause before a restart; doubles", low=0)
    restart_backoff_max_s: float = _setting(10.0, "longest pause before a restart", low=0)
    restart_limit: int = _setting(
        10, "restarts in a row until a process is given up and reported", low=0
    )
    restart_stable_s: float = _setting(
        30.0, "a process alive this long starts its count of restarts anew", low=0
    )


@frozen(kw_only=True)
class WebSettings:
    """The web process: address, TLS, sizes of requests, sessions' queues."""

    host: str = _setting("127.0.0.1", "address to listen on; 0.0.0.0 for everybody")
    https: bool = _setting(True, "serve TLS; browsers give the microphone to secure pages alone")
    ssl_certfile: str = _setting("", "certificate (PEM); empty: one is made at the first start")
    ssl_keyfile: str = _setting("", "its private key (PEM)")
    lang: Literal["", "zh", "en"] = _setting(
        "", "language of the pages for browsers that ask for neither"
    )
    max_body_mb: int = _setting(256, "largest HTTP body, in MiB", low=1, high=4096)
    max_frame_mb: int = _setting(128, "largest WebSocket frame, in MiB", low=1, high=1024)
    max_early_kb: int = _setting(
        8192, "events kept for a client that still waits in the queue, in KiB", low=64
    )
    max_backlog_chunks: int = _setting(
        8, "unanswered duplex chunks until further ones are answered with listen", low=1, high=1000
    )
    send_timeout_s: float = _setting(10.0, "a client that takes nothing for so long is cut", low=1)
    ping_interval_s: float = _setting(
        20.0, "a silent client is pinged after so long, and cut after half of it more", low=1
    )
    half_duplex_timeout_s: float = _setting(
        300.0, "length of a half-duplex session unless the client asks for another", low=1
    )


@frozen(kw_only=True)
class RealtimeSettings:
    """Sessions on `/v1/realtime`. The first two: of the MiniCPM-o realtime protocol (R1)."""

    audio_limit_s: float = _setting(600.0, "longest R1 session of sound", low=1)
    video_limit_s: float = _setting(300.0, "longest R1 session with pictures", low=1)
    session_timeout_s: float = _setting(3600.0, "longest OpenAI session", low=1)
    idle_timeout_s: float = _setting(
        900.0, "a session whose client sends nothing for so long ends", low=1
    )
    max_wait_s: float = _setting(
        60.0, "estimated wait for an answer from which a client is sent away", low=0
    )
    response_timeout_s: float = _setting(
        300.0, "longest answer, the wait for a free slot included", low=1
    )
    max_items: int = _setting(1000, "items of a conversation; the oldest go", low=2)
    max_conversation_mb: int = _setting(
        64, "sound, pictures and words of a conversation, in MiB; the oldest go", low=1
    )
    max_history_s: float = _setting(
        120.0, "speech of earlier turns that an engine hears again, in s; 0: its last turn", low=0
    )
    max_client_secrets: int = _setting(
        10_000, "ephemeral keys at once; the oldest go", low=1, high=1_000_000
    )


@frozen(kw_only=True)
class SecuritySettings:
    """Who may do what."""

    allowed_origins: tuple[str, ...] = _setting(
        (), "further origins whose pages may open WebSockets and send; the server's own always may"
    )
    allowed_hosts: tuple[str, ...] = _setting(
        (), "names by which a server on loopback may be asked for (behind a proxy), without ports"
    )
    require_keys: Literal["auto", "always", "never"] = _setting(
        "auto", "who needs a key: everybody as soon as the server listens beyond loopback (auto)"
    )
    api_keys: tuple[str, ...] = _setting(
        (), "API keys beside those of `omni keys api`; if there are some, /v1 needs one anywhere"
    )
    admin_keys: tuple[str, ...] = _setting((), "admin keys beside those of `omni keys admin`")
    trusted_proxies: tuple[str, ...] = _setting(
        (), "addresses of proxies whose X-Forwarded-For and X-Forwarded-Proto are believed"
    )
    requests_per_minute_per_address: int = _setting(
        1200, "files of pages are not counted, nor is loopback; 0: no limit", low=0
    )
    requests_per_minute_per_key: int = _setting(6000, "0: no limit", low=0)
    sign_ins_per_minute: int = _setting(
        20, "wrong keys that one address may show, loopback too; 0: no limit", low=0
    )
    max_sessions_per_address: int = _setting(
        64, "conversations at once, loopback not counted; 0: no limit", low=0
    )
    max_sessions_per_key: int = _setting(256, "conversations at once; 0: no limit", low=0)
    max_small_body_kb: int = _setting(
        1024, "largest body of a route that takes neither media nor files, in KiB", low=1
    )


@frozen(kw_only=True)
class RecordingSettings:
    """Recording of sessions."""

    enabled: bool = _setting(True, "record sessions")
    session_retention_days: int = _setting(-1, "delete sessions older than this; -1: never")
    max_storage_gb: float = _setting(-1.0, "delete the oldest sessions above this; -1: no limit")


@frozen(kw_only=True)
class CleanupSettings:
    """When old recordings are looked for."""

    first_pass_s: float = _setting(60.0, "time from the start to the first pass", low=0)
    interval_s: float = _setting(86400.0, "time between passes", low=60)


@frozen(kw_only=True)
class PocketSettings:
    """The CPU engine's weights and threads."""

    whisper_path: str = _setting(
        "", "faster-whisper (CTranslate2) directory; empty: the packaged tiny.en"
    )
    llm_path: str = _setting(
        "", "GGUF file or Hugging Face causal-LM directory; empty: the packaged SmolLM2-135M"
    )
    voice_path: str = _setting("", "Piper voice (.onnx with .onnx.json); empty: the packaged one")
    threads: int = _setting(0, "threads for transcription; 0: the machine's cores", low=0, high=256)
    max_sessions: int = _setting(4, "conversations at once in one worker", low=1, high=64)
    system_prompt: str = _setting("", "instructions of the language model; empty: the tuned one")


@frozen(kw_only=True)
class Settings:
    """All sections. Pass a section on, never this."""

    model: ModelSettings = Factory(ModelSettings)
    audio: AudioSettings = Factory(AudioSettings)
    service: ServiceSettings = Factory(ServiceSettings)
    duplex: DuplexSettings = Factory(DuplexSettings)
    fabric: FabricSettings = Factory(FabricSettings)
    web: WebSettings = Factory(WebSettings)
    realtime: RealtimeSettings = Factory(RealtimeSettings)
    security: SecuritySettings = Factory(SecuritySettings)
    recording: RecordingSettings = Factory(RecordingSettings)
    cleanup: CleanupSettings = Factory(CleanupSettings)
    pocket: PocketSettings = Factory(PocketSettings)


@frozen
class SettingField:
    """One setting as documented: its path, type, default and help."""

    section: str
    name: str
    type: Any  # a runtime type expression
    default: Any
    help: str
    low: float | None
    high: float | None

    @property
    def path(self) -> str:
        """`section.name`, as `--set` takes it."""
        return f"{self.section}.{self.name}"

    @property
    def allowed(self) -> str:
        """What may stand there, in words."""
        if get_origin(self.type) is Literal:
            return "one of " + ", ".join(repr(value) for value in get_args(self.type))
        words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
        text = words.get(self.type, "a list of texts")
        if self.low is not None and self.high is not None:
            return f"{text} from {self.low:g} to {self.high:g}"
        if self.low is not None:
            return f"{text}, at least {self.low:g}"
        return text


def setting_fields() -> Iterator[SettingField]:
    """Yield every setting in the order of the file."""
    for section in fields(Settings):
        assert section.default is not None
        kind = section.default.factory
        hints = get_type_hints(kind)
        for item in fields(kind):
            yield _setting_field(section.name, item, hints[item.name])


def _setting_field(section: str, item: "Attribute[Any]", kind: Any) -> SettingField:
    meta = item.metadata
    return SettingField(
        section, item.name, kind, item.default, meta["help"], meta["low"], meta["high"]
    )


def load_settings(
    path: Path | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Sequence[str] = (),
) -> Settings:
    """Return the settings: default <- file *path* <- `OMNI_SECTION__FIELD` <- *overrides*.

    Raises: SettingsError with the path of the field, the value, and what is allowed.
    """
    known = {item.path: item for item in setting_fields()}
    values: dict[str, Any] = {}
    if path is not None:
        values.update(_from_file(path, known))
    values.update(_from_environ(environ or {}, known))
    values.update(_from_overrides(overrides, known))
    return _build(values)


def _build(values: Mapping[str, Any]) -> Settings:
    settings = Settings()
    for section in fields(Settings):
        chosen = {
            key.split(".", 1)[1]: value
            for key, value in values.items()
            if key.startswith(section.name + ".")
        }
        part = evolve(getattr(settings, section.name), **chosen)
        settings = evolve(settings, **{section.name: part})
    return settings


def _from_file(path: Path, known: Mapping[str, SettingField]) -> dict[str, Any]:
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except OSError as exc:
        raise SettingsError(f"cannot read {path}: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise SettingsError(f"{path} is not TOML: {exc}") from exc
    values: dict[str, Any] = {}
    for section, body in document.items():
        if not isinstance(body, dict):
            raise SettingsError(f"{path}: {section} = {body!r} stands outside of a [section]")
        for name, value in body.items():
            item = _known(f"{section}.{name}", known, str(path))
            values[item.path] = _checked(item, value, str(path))
    return values


def _from_environ(environ: Mapping[str, str], known: Mapping[str, SettingField]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, text in environ.items():
        if name.startswith(ENV_PREFIX) and "__" in name:
            path = name.removeprefix(ENV_PREFIX).lower().replace("__", ".", 1)
            item = _known(path, known, f"environment variable {name}")
            values[item.path] = _from_text(item, text, f"environment variable {name}")
    return values


def _from_overrides(
    overrides: Sequence[str], known: Mapping[str, SettingField]
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for text in overrides:
        path, equals, value = text.partition("=")
        if not equals:
            raise SettingsError(f"--set {text!r}: write section.field=value")
        item = _known(path.strip(), known, "--set")
        values[item.path] = _from_text(item, value.strip(), "--set")
    return values


def _known(path: str, known: Mapping[str, SettingField], source: str) -> SettingField:
    if (item := known.get(path)) is not None:
        return item
    section = path.split(".", 1)[0]
    near = [name for name in known if name.startswith(section + ".")]
    hint = ", ".join(near) if near else "sections: " + ", ".join(f.name for f in fields(Settings))
    raise SettingsError(f"{source}: there is no setting {path!r}; known: {hint}")


def _from_text(item: SettingField, text: str, source: str) -> Any:
    """Return *text* as the field's type; lists are comma-separated."""
    if item.type is bool:
        words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        return _checked(item, words.get(text.lower(), text), source)
    if item.type in (int, float):
        try:
            return _checked(item, item.type(text), source)
        except ValueError:
            return _checked(item, text, source)
    if get_origin(item.type) is tuple:
        if text.startswith(('["', "['")):  # it would be one odd text
            raise SettingsError(f"{source}: {item.path} = {text}: here a list is written one,two")
        return _checked(item, [part.strip() for part in text.split(",") if part.strip()], source)
    return _checked(item, text, source)


def _checked(item: SettingField, value: Any, source: str) -> Any:
    """Return *value* in the field's type, or raise SettingsError; no silent conversion."""
    kind = item.type
    if get_origin(kind) is tuple and isinstance(value, list):
        if all(isinstance(part, str) for part in value):
            return tuple(value)
    elif get_origin(kind) is Literal:
        if value in get_args(kind) and not isinstance(value, bool):
            return value
    elif kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        if _in_bounds(item, value):
            return float(value)
    elif kind is int and isinstance(value, int) and not isinstance(value, bool):
        if _in_bounds(item, value):
            return value
    elif kind in (str, bool) and isinstance(value, kind):
        return value
    raise SettingsError(f"{source}: {item.path} = {value!r} is not allowed; it is {item.allowed}")


def _in_bounds(item: SettingField, value: float) -> bool:
    low, high = item.low, item.high
    return (low is None or value >= low) and (high is None or value <= high)


def is_setting(path: str) -> bool:
    """Say whether there is a setting `section.name`."""
    return any(item.path == path for item in setting_fields())


def checked_setting(path: str, value: Any, source: str) -> Any:
    """Return *value* in the type of setting *path*. Raises: SettingsError."""
    known = {item.path: item for item in setting_fields()}
    return _checked(_known(path, known, source), value, source)


def as_toml(values: Mapping[str, Any] = MappingProxyType({})) -> str:
    """Return the text of settings.toml: every field with its value and one line of help.

    values: by path; a field that is not among them has its default.
    """
    lines = ["# omni's settings. Order: command line > OMNI_SECTION__FIELD > this file > default."]
    section = ""
    for item in setting_fields():
        if item.section != section:
            section = item.section
            lines += ["", f"[{section}]"]
        value = _toml(values.get(item.path, item.default))
        lines += [f"# {item.help} ({item.allowed})", f"{item.name} = {value}"]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(part) for part in value) + "]"
    return repr(value)
