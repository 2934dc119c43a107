"""What answers behind this server: the capabilities of its workers, taken together."""

from aiohttp import web

from omni.engine import Capabilities, Mode
from omni.errors import NoWorker
from omni.messages import Status
from omni.routes.keys import LINK

_MODES: tuple[Mode, ...] = ("chat", "half_duplex", "audio_duplex", "omni_duplex")
#: Before any worker is ready nothing is known, and nothing is hidden.
UNKNOWN = Capabilities(engine="", model="", modes=_MODES, num_slots=0, languages=())


async def served(app: web.Application) -> Capabilities:
    """Return what can be had now; `UNKNOWN` while no worker is ready or the broker is away."""
    try:
        return merged(await app[LINK].status())
    except NoWorker:
        return UNKNOWN


def merged(status: Status) -> Capabilities:
    """Return the capabilities of the first worker that has them: all run the same engine."""
    for worker in status.workers:
        if worker.capabilities is not None:
            return worker.capabilities
    return UNKNOWN
