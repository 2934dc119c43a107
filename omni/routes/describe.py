"""What each route takes and gives, said beside its handler; `/openapi.json` is made of it.

A handler is described by a decorator:

    @describe("Delete a voice", tag="Voices", reply=record({"success": FLAG}), errors=(404,))
    async def delete_voice(request: web.Request) -> web.Response: ...

Parameters of the path need no word unless there is something to say about them. A route with a
body may answer 400, 413 and 422 without being told so. Any JSON Schema (2020-12) may stand where a
`Schema` is expected; the constants and functions below write the usual ones.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from attrs import field, frozen

#: A JSON Schema; its values are whatever JSON has.
Schema = Mapping[str, Any]

_Handler = TypeVar("_Handler", bound=Callable[..., Any])

TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
NUMBER: Schema = {"type": "number"}
WHOLE: Schema = {"type": "integer"}
ANYTHING: Schema = {}
#: Any JSON object; unknown keys are ignored wherever one is read.
AN_OBJECT: Schema = {"type": "object"}
#: The content of a file.
FILE: Schema = {"type": "string", "format": "binary"}

JSON = "application/json"


def record(properties: Mapping[str, Schema], optional: Sequence[str] = ()) -> Schema:
    """Return the schema of an object that has all *properties*, those in *optional* perhaps."""
    required = [name for name in properties if name not in optional]
    schema: dict[str, Any] = {"type": "object", "properties": dict(properties)}
    return {**schema, "required": required} if required else schema


def list_of(item: Schema) -> Schema:
    """Return the schema of a list."""
    return {"type": "array", "items": item}


def map_of(value: Schema) -> Schema:
    """Return the schema of an object whose keys are any texts."""
    return {"type": "object", "additionalProperties": value}


def or_null(schema: Schema) -> Schema:
    """Return the schema of something that may be null."""
    return {"anyOf": [schema, {"type": "null"}]}


def one_of(*values: str) -> Schema:
    """Return the schema of a closed set of texts."""
    return {"type": "string", "enum": list(values)}


def between(schema: Schema, low: float, high: float | None = None) -> Schema:
    """Return *schema* with inclusive bounds."""
    bounds = {"minimum": low} if high is None else {"minimum": low, "maximum": high}
    return {**schema, **bounds}


def said(schema: Schema, help: str) -> Schema:
    """Return *schema* with a line about what it means."""
    return {**schema, "description": help}


@frozen(kw_only=True)
class Param:
    """A parameter. where: parameters of the path are always required."""

    name: str
    help: str = ""
    schema: Schema = field(default=TEXT)
    where: Literal["path", "query", "header"] = "query"
    required: bool = False


@frozen(kw_only=True)
class Body:
    """What a request carries. schema: of each content type in *content_types*."""

    schema: Schema
    content_types: tuple[str, ...] = (JSON,)
    required: bool = True
    example: object = None


@frozen(kw_only=True)
class Reply:
    """One good answer. content_types: empty for an answer without a body."""

    status: int = 200
    schema: Schema = field(default=AN_OBJECT)
    content_types: tuple[str, ...] = (JSON,)
    help: str = ""


@frozen(kw_only=True)
class Event:
    """A message of a WebSocket. fields: schema of everything but its `type`."""

    type: str
    help: str = ""
    fields: Schema = field(default=AN_OBJECT)


@frozen(kw_only=True)
class SocketTalk:
    """What is said on a WebSocket: by its client, by the server, in the order of a usual talk."""

    client: tuple[Event, ...]
    server: tuple[Event, ...]


@frozen(kw_only=True)
class Operation:
    """One handler, described. errors: statuses that it may answer beside those of its body."""

    summary: str
    tag: str
    help: str = ""
    params: tuple[Param, ...] = ()
    body: Body | None = None
    replies: tuple[Reply, ...] = (Reply(),)
    errors: tuple[int, ...] = ()
    talk: SocketTalk | None = None


#: Every described handler; filled as the modules of the routes are imported.
_OPERATIONS: dict[Callable[..., Any], Operation] = {}


def operation_of(handler: Callable[..., Any]) -> Operation | None:
    """Return what was said about *handler*; None where nothing was."""
    return _OPERATIONS.get(handler)


def describe(
    summary: str,
    *,
    tag: str,
    help: str = "",
    params: Sequence[Param] = (),
    body: Body | Schema | None = None,
    reply: Reply | Schema | Sequence[Reply] = AN_OBJECT,
    errors: Sequence[int] = (),
) -> Callable[[_Handler], _Handler]:
    """Return a decorator that says what a handler does.

    summary: a few words; help: what else a caller must know (Markdown). tag: the group that it is
    shown in. body, reply: a plain schema means JSON, status 200.
    """
    operation = Operation(
        summary=summary,
        tag=tag,
        help=help,
        params=tuple(params),
        body=body if body is None or isinstance(body, Body) else Body(schema=body),
        replies=_replies(reply),
        errors=tuple(errors),
    )
    return _keeping(operation)


def describe_socket(
    summary: str,
    *,
    tag: str,
    help: str = "",
    params: Sequence[Param] = (),
    client: Sequence[Event],
    server: Sequence[Event],
    errors: Sequence[int] = (),
) -> Callable[[_Handler], _Handler]:
    """Return a decorator that says what a WebSocket is for and what is said on it.

    A request without an upgrade is answered 400, one that may not connect 403.
    """
    upgraded = Reply(status=101, content_types=(), help="The connection is a WebSocket now")
    operation = Operation(
        summary=summary,
        tag=tag,
        help=help,
        params=tuple(params),
        replies=(upgraded,),
        errors=(400, 403, *errors),
        talk=SocketTalk(client=tuple(client), server=tuple(server)),
    )
    return _keeping(operation)


def _replies(reply: Reply | Schema | Sequence[Reply]) -> tuple[Reply, ...]:
    if isinstance(reply, Reply):
        return (reply,)
    if isinstance(reply, Mapping):
        return (Reply(schema=reply),)
    return tuple(reply)


def _keeping(operation: Operation) -> Callable[[_Handler], _Handler]:
    def keep(handler: _Handler) -> _Handler:
        _OPERATIONS[handler] = operation
        return handler

    return keep
