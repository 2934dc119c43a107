"""What the web process keeps for its routes, by typed key."""

from aiohttp import web

from omni.diagnostics import Diagnostics
from omni.link import BrokerLink
from omni.openai.audio_memory import AudioMemory
from omni.realtime.live import LiveSessions
from omni.realtime.openai.client_secrets import ClientSecrets
from omni.recording.recorder import Recordings
from omni.recording.store import SessionStore
from omni.routes.app_table import AppTable
from omni.routes.preset_files import Presets
from omni.settings import Settings
from omni.sound_files import SoundFiles
from omni.voices import Voices

SETTINGS = web.AppKey("settings", Settings)
LINK = web.AppKey("link", BrokerLink)
LIVE = web.AppKey("live", LiveSessions)
#: A Protocol is no type to `AppKey`, but it is to its readers.
RECORDINGS: web.AppKey[Recordings] = web.AppKey("recordings")
SESSIONS = web.AppKey("sessions", SessionStore)
APPS = web.AppKey("apps", AppTable)
#: By mode; read once, when the process starts.
PRESETS: web.AppKey[Presets] = web.AppKey("presets")
VOICES = web.AppKey("voices", Voices)
SOUND_FILES = web.AppKey("sound_files", SoundFiles)
#: What spoken answers of OpenAI's chat said.
AUDIO_MEMORY = web.AppKey("audio_memory", AudioMemory)
#: Ephemeral keys of `/v1/realtime`.
CLIENT_SECRETS = web.AppKey("client_secrets", ClientSecrets)
DIAGNOSTICS = web.AppKey("diagnostics", Diagnostics)
#: The document of every route, as JSON has it.
OPENAPI: web.AppKey[dict[str, object]] = web.AppKey("openapi")
