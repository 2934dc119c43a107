"""The session object that clients are shown: the present form, and the beta's flat one."""

from omni.realtime.openai.config import PCM_HZ, FormatName, SessionConfig, TurnDetection

_BETA_WORDS = {"audio/pcm": "pcm16", "audio/pcmu": "g711_ulaw", "audio/pcma": "g711_alaw"}


def shown(
    config: SessionConfig, session_id: str, expires_at: int, is_beta: bool
) -> dict[str, object]:
    """Return the whole session. expires_at: Unix seconds."""
    form = _beta_form(config) if is_beta else _present_form(config)
    if config.sound != "base64":  # nothing of ours is shown to who did not ask for it
        form["sound"] = config.sound
    kind = "session" if config.kind == "realtime" else "transcription_session"
    return {"id": session_id, "object": f"realtime.{kind}", "expires_at": expires_at, **form}


def format_object(name: FormatName) -> dict[str, object]:
    """Return a format of sound as the API writes it."""
    return {"type": name, "rate": PCM_HZ} if name == "audio/pcm" else {"type": name}


def _present_form(config: SessionConfig) -> dict[str, object]:
    if config.kind == "transcription":
        return {"type": config.kind, "audio": {"input": _input(config)}, "include": None}
    return {
        "type": config.kind,
        "model": config.model,
        "output_modalities": [config.output_modality],
        "instructions": config.instructions,
        "audio": {
            "input": _input(config),
            "output": {
                "format": format_object(config.output_format),
                "voice": config.voice,
                "speed": config.speed,
            },
        },
        "tools": list(config.tools),
        "tool_choice": config.tool_choice,
        "max_output_tokens": config.max_output_tokens or "inf",
        "truncation": "auto",
        "include": None,
        "prompt": None,
        "tracing": None,
    }


def _input(config: SessionConfig) -> dict[str, object]:
    return {
        "format": format_object(config.input_format),
        "turn_detection": _turn_detection(config.turn_detection),
        "transcription": _transcription(config),
        "noise_reduction": _noise_reduction(config),
    }


def _beta_form(config: SessionConfig) -> dict[str, object]:
    return {
        "model": config.model,
        "modalities": ["text", "audio"] if config.output_modality == "audio" else ["text"],
        "instructions": config.instructions,
        "voice": config.voice,
        "input_audio_format": _BETA_WORDS[config.input_format],
        "output_audio_format": _BETA_WORDS[config.output_format],
        "input_audio_transcription": _transcription(config),
        "input_audio_noise_reduction": _noise_reduction(config),
        "turn_detection": _turn_detection(config.turn_detection),
        "tools": list(config.tools),
        "tool_choice": config.tool_choice,
        "temperature": 0.8 if config.temperature is None else config.temperature,
        "max_response_output_tokens": config.max_output_tokens or "inf",
        "speed": config.speed,
    }


def _turn_detection(rules: TurnDetection | None) -> dict[str, object] | None:
    if rules is None:
        return None
    after = {
        "create_response": rules.create_response,
        "interrupt_response": rules.interrupt_response,
    }
    if rules.kind == "semantic_vad":
        return {"type": rules.kind, "eagerness": rules.eagerness, **after}
    return {
        "type": rules.kind,
        "threshold": rules.threshold,
        "prefix_padding_ms": rules.prefix_padding_ms,
        "silence_duration_ms": rules.silence_duration_ms,
        "idle_timeout_ms": None,
        **after,
    }


def _transcription(config: SessionConfig) -> dict[str, object] | None:
    chosen = config.transcription
    if chosen is None:
        return None
    return {
        "model": chosen.model,
        "language": chosen.language or None,
        "prompt": chosen.prompt or None,
    }


def _noise_reduction(config: SessionConfig) -> dict[str, object] | None:
    return None if config.noise_reduction is None else {"type": config.noise_reduction}
