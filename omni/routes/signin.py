"""How a browser gets in where keys are needed: it shows its key once, and gets a cookie."""

from aiohttp import web

from omni.errors import Unauthorized
from omni.routes.bodies import read_fields
from omni.routes.describe import FLAG, TEXT, describe, one_of, or_null, record
from omni.routes.errors import json_reply
from omni.routes.gate import COOKIE, GUARD, VISITOR, sign_in

_MAX_KEY_CHARS = 500


@describe(
    "Show a key, get a cookie",
    tag="Security",
    help="For browsers: the cookie `omni_signin` stands for the key for 30 days, or until the key "
    "is removed. Where no key is needed any key is answered with 401, and nothing needs it.",
    body=record({"key": TEXT}),
    reply=record({"success": FLAG, "is_admin": FLAG}),
    errors=(401, 429),
)
async def post_signin(request: web.Request) -> web.Response:
    """Sign a browser in."""
    fields = await read_fields(request)
    guard = request.app[GUARD]
    text = fields.text("key", max_chars=_MAX_KEY_CHARS).strip()
    key = guard.find(text, guard.address_of(request))
    if key is None:
        raise Unauthorized("This key is not known here")
    reply = json_reply({"success": True, "is_admin": key.kind == "admin"})
    sign_in(reply, guard, key, request)
    return reply


@describe("Forget the cookie", tag="Security", reply=record({"success": FLAG}))
async def post_signout(request: web.Request) -> web.Response:
    """Sign a browser out."""
    reply = json_reply({"success": True})
    reply.del_cookie(COOKIE, path="/")
    return reply


@describe(
    "Ask who one is",
    tag="Security",
    help="`key` is what was shown, by header or cookie; null where none is needed.",
    reply=record(
        {
            "needs_key": FLAG,
            "is_admin": FLAG,
            "key": or_null(record({"id": TEXT, "kind": one_of("api", "admin"), "name": TEXT})),
        }
    ),
)
async def get_visitor(request: web.Request) -> web.Response:
    """Say what the caller may do, so that a page shows no more than that."""
    visitor, key = request[VISITOR], request[VISITOR].key
    shown = None if key is None else {"id": key.id, "kind": key.kind, "name": key.name}
    needs_key = request.app[GUARD].is_locked
    return json_reply({"needs_key": needs_key, "is_admin": visitor.is_admin, "key": shown})
