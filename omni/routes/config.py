"""Configuration that clients read and operators change: estimates, defaults of the pages."""

from aiohttp import web

from omni.messages import EtaConfig, EtaView
from omni.realtime.fields import Fields
from omni.routes.bodies import read_fields
from omni.routes.describe import (
    FLAG,
    NUMBER,
    TEXT,
    WHOLE,
    between,
    describe,
    list_of,
    one_of,
    or_null,
    record,
)
from omni.routes.errors import json_reply
from omni.routes.keys import LINK, SETTINGS
from omni.routes.served import served
from omni.settings import ServiceSettings

#: Names of the demo's estimates and the request types behind them.
_TYPES = {
    "chat": "chat",
    "half_duplex": "half_duplex_audio",
    "audio_duplex": "audio_duplex",
    "omni_duplex": "omni_duplex",
    "streaming": "streaming",
    "duplex": "omni_duplex",  # of servers that had one estimate for both kinds of duplex
}
_MAX_ETA_S = 1e6
_MIN_ALPHA = 1e-6

TAG = "Service"
_CONFIG = {
    **{f"eta_{name}_s": between(NUMBER, 0, _MAX_ETA_S) for name in _TYPES},
    "ema_alpha": between(NUMBER, _MIN_ALPHA, 1),
}
_ETA = record(
    {
        "config": record({name: or_null(schema) for name, schema in _CONFIG.items()}),
        "ema_alpha": NUMBER,
        **{f"ema_{name}_s": or_null(NUMBER) for name in _TYPES},
        **{f"ema_{name}_samples": WHOLE for name in _TYPES},
    }
)


@describe("Get the expected durations", tag=TAG, reply=_ETA, errors=(503,))
async def get_eta(request: web.Request) -> web.Response:
    """Return what the estimates rest on."""
    return await _eta_reply(request)


@describe(
    "Replace the expected durations",
    tag=TAG,
    help=(
        "The body is the `config` object itself. What it leaves out has its default again; "
        "`ema_alpha: null` keeps the present one. Waiting tickets get new estimates at once. "
        "`eta_duplex_s` stands for both kinds of duplex, where they are not given."
    ),
    body=record({name: or_null(schema) for name, schema in _CONFIG.items()}, list(_CONFIG)),
    reply=_ETA,
    errors=(503,),
)
async def put_eta(request: web.Request) -> web.Response:
    """Replace the whole configuration; what is left out is the default again."""
    config = parse_eta(await read_fields(request), request.app[SETTINGS].service)
    await request.app[LINK].set_eta(config)
    return await _eta_reply(request)


@describe(
    "Get the defaults of pages",
    tag=TAG,
    help="`default_lang` (zh, en) is there where the server was started with one.",
    reply=record(
        {
            "playback_delay_ms": WHOLE,
            "default_lang": one_of("zh", "en"),
            "engine": TEXT,
            "model_name": TEXT,
            "notice": TEXT,
            "modes": list_of(TEXT),
            "languages": list_of(TEXT),
            "vision": FLAG,
            "transcribes": FLAG,
            "min_chunk_ms": WHOLE,
            "recording": FLAG,
            "pause_timeout_s": NUMBER,
            "half_duplex_timeout_s": NUMBER,
        },
        optional=["default_lang"],
    ),
)
async def get_frontend_defaults(request: web.Request) -> web.Response:
    """Return what pages need before they open a session."""
    settings = request.app[SETTINGS]
    now = await served(request.app)
    defaults: dict[str, object] = {
        "playback_delay_ms": settings.audio.playback_delay_ms,
        "engine": now.engine,
        "model_name": now.model,
        "notice": now.notice,
        "modes": list(now.modes),
        "languages": list(now.languages),
        "vision": now.vision,
        "transcribes": now.transcribes,
        "min_chunk_ms": now.min_chunk_ms,
        "recording": settings.recording.enabled,
        "pause_timeout_s": settings.duplex.pause_timeout,
        "half_duplex_timeout_s": settings.web.half_duplex_timeout_s,
    }
    if settings.web.lang:
        defaults["default_lang"] = settings.web.lang
    return json_reply(defaults)


def parse_eta(fields: Fields, service: ServiceSettings) -> EtaConfig:
    """Return the configuration in *fields*. Raises: FieldError."""

    def eta_s(name: str, default: float) -> float:
        return fields.number(name, default, 0, _MAX_ETA_S)

    duplex_s = fields.number("eta_duplex_s", 0, 0, _MAX_ETA_S)
    has_one = fields.has("eta_duplex_s")
    return EtaConfig(
        eta_chat_s=eta_s("eta_chat_s", service.eta_chat_s),
        eta_half_duplex_s=eta_s("eta_half_duplex_s", service.eta_half_duplex_s),
        eta_audio_duplex_s=eta_s(
            "eta_audio_duplex_s", duplex_s if has_one else service.eta_audio_duplex_s
        ),
        eta_omni_duplex_s=eta_s(
            "eta_omni_duplex_s", duplex_s if has_one else service.eta_omni_duplex_s
        ),
        eta_streaming_s=eta_s("eta_streaming_s", service.eta_streaming_s),
        ema_alpha=(
            fields.number("ema_alpha", 0.3, _MIN_ALPHA, 1) if fields.has("ema_alpha") else None
        ),
    )


async def _eta_reply(request: web.Request) -> web.Response:
    status = await request.app[LINK].status()
    return json_reply(_eta(status.eta))


def _eta(view: EtaView) -> dict[str, object]:
    config = view.config
    reply: dict[str, object] = {
        "config": {
            "eta_chat_s": config.eta_chat_s,
            "eta_half_duplex_s": config.eta_half_duplex_s,
            "eta_audio_duplex_s": config.eta_audio_duplex_s,
            "eta_omni_duplex_s": config.eta_omni_duplex_s,
            "eta_streaming_s": config.eta_streaming_s,
            "eta_duplex_s": config.eta_omni_duplex_s,
            "ema_alpha": config.ema_alpha,
        },
        "ema_alpha": view.ema_alpha,
    }
    for name, request_type in _TYPES.items():
        reply[f"ema_{name}_s"] = view.ema_s.get(request_type)
        reply[f"ema_{name}_samples"] = view.samples.get(request_type, 0)
    return reply
