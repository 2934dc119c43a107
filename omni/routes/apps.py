"""Which apps there are, and switching them."""

from aiohttp import web

from omni.errors import ProtocolError
from omni.realtime.fields import Fields
from omni.routes.app_table import APPS as ALL_APPS
from omni.routes.app_table import App
from omni.routes.bodies import read_fields
from omni.routes.describe import FLAG, TEXT, describe, list_of, record
from omni.routes.errors import json_reply
from omni.routes.keys import APPS
from omni.routes.served import served

TAG = "Apps"
_APP_FIELDS = {"app_id": TEXT, "name": TEXT, "route": TEXT}
_APP = record(_APP_FIELDS)
_APP_STATE = record({**_APP_FIELDS, "enabled": FLAG})
_SWITCHED = record({"success": FLAG, "app": _APP_STATE})


@describe(
    "List the apps that can be used",
    tag=TAG,
    help="Those that are enabled and that the engine can serve.",
    reply=record({"apps": list_of(_APP)}),
)
async def get_apps(request: web.Request) -> web.Response:
    """Return the apps that are enabled and that the engine can serve."""
    offered = request.app[APPS].offered((await served(request.app)).modes)
    return json_reply({"apps": [_app(app) for app in offered]})


@describe("List all apps", tag=TAG, reply=record({"apps": list_of(_APP_STATE)}))
async def get_admin_apps(request: web.Request) -> web.Response:
    """Return all apps and whether each is enabled."""
    table = request.app[APPS]
    apps = [{**_app(app), "enabled": table.is_enabled(app.app_id)} for app in ALL_APPS]
    return json_reply({"apps": apps})


@describe(
    "Switch an app on or off",
    tag=TAG,
    help="An app that is off is refused on every way in (403). The state outlives the server.",
    body=record({"enabled": FLAG}),
    reply=_SWITCHED,
    errors=(404,),
)
async def put_admin_app(request: web.Request) -> web.Response:
    """Switch the app that the path names."""
    fields = await read_fields(request)
    return await _switch(request, request.match_info["app_id"], fields)


@describe(
    "Switch the app that the body names",
    tag=TAG,
    body=record({"app_id": TEXT, "enabled": FLAG}),
    reply=_SWITCHED,
    errors=(404,),
)
async def put_admin_apps(request: web.Request) -> web.Response:
    """Switch the app that the body names, as the demo's documents have it."""
    fields = await read_fields(request)
    return await _switch(request, fields.text("app_id"), fields)


async def _switch(request: web.Request, app_id: str, fields: Fields) -> web.Response:
    if not fields.has("enabled"):
        raise ProtocolError("enabled is missing: true or false")
    enabled = fields.flag("enabled", True)
    app = await request.app[APPS].set_enabled(app_id, enabled)
    return json_reply({"success": True, "app": {**_app(app), "enabled": enabled}})


def _app(app: App) -> dict[str, object]:
    return {"app_id": app.app_id, "name": app.name, "route": app.route}
