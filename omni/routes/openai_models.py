"""`/v1/models`: the model that answers here."""

import time

from aiohttp import web

from omni.engine.load import engine_name
from omni.openai.errors import ModelNotFound
from omni.openai.model import model_id, model_object
from omni.routes.describe import TEXT, WHOLE, describe, list_of, record
from omni.routes.errors import json_reply
from omni.routes.keys import SETTINGS

TAG = "OpenAI"
_SHOWN_CHARS = 100

_MODEL = record({"id": TEXT, "object": TEXT, "created": WHOLE, "owned_by": TEXT})
#: Nobody knows when the model was made; OpenAI's clients want a number.
_STARTED_AT = int(time.time())


@describe(
    "List the models",
    tag=TAG,
    help="There is one: the model that answers. Other requests take any model name for it.",
    reply=record({"object": TEXT, "data": list_of(_MODEL)}),
    errors=(401,),
)
async def get_models(request: web.Request) -> web.Response:
    """Return the model in a list."""
    return json_reply({"object": "list", "data": [_model(request)]})


@describe("Show a model", tag=TAG, reply=_MODEL, errors=(401, 404))
async def get_model(request: web.Request) -> web.Response:
    """Return the model, if it has that name."""
    name = request.match_info["model"]
    if name != served_model(request):
        shown = name[:_SHOWN_CHARS]
        raise ModelNotFound(f"The model {shown!r} is not here; {served_model(request)} is")
    return json_reply(_model(request))


def served_model(request: web.Request) -> str:
    """Return the id of the model that answers."""
    return model_id(engine_name(request.app[SETTINGS].model))


def _model(request: web.Request) -> dict[str, object]:
    return model_object(engine_name(request.app[SETTINGS].model), _STARTED_AT)
