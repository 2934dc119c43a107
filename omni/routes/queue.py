"""The waiting line: look at it, look at one ticket, cancel a ticket."""

from aiohttp import web

from omni.errors import Forbidden
from omni.messages import TicketView
from omni.routes.describe import (
    FLAG,
    NUMBER,
    TEXT,
    WHOLE,
    describe,
    list_of,
    record,
    said,
)
from omni.routes.errors import json_reply
from omni.routes.gate import GUARD, VISITOR
from omni.routes.keys import LINK
from omni.routes.status import SESSION_ID, TASK, local_iso, running_tasks, shown_id

TAG = "Queue"
_TICKET_FIELDS = {
    "ticket_id": TEXT,
    "request_type": TEXT,
    "session_id": SESSION_ID,
    "position": said(WHOLE, "from 1"),
    "estimated_wait_s": NUMBER,
    "enqueued_at": TEXT,
}
_ITEM = record({**_TICKET_FIELDS, "wait_elapsed_s": NUMBER})
_TICKET = record({**_TICKET_FIELDS, "cancelled": FLAG})


@describe(
    "See who waits and what runs",
    tag=TAG,
    reply=record(
        {
            "queue_length": WHOLE,
            "max_queue_size": WHOLE,
            "items": list_of(_ITEM),
            "running_tasks": list_of(TASK),
        }
    ),
    errors=(503,),
)
async def get_queue(request: web.Request) -> web.Response:
    """Return all tickets and what runs."""
    status = await request.app[LINK].status()
    items = [
        {**_ticket(request, ticket), "wait_elapsed_s": round(ticket.waited_s, 1)}
        for ticket in status.tickets
    ]
    return json_reply(
        {
            "queue_length": len(items),
            "max_queue_size": status.max_queue_size,
            "items": items,
            "running_tasks": running_tasks(request, status),
        }
    )


@describe(
    "See one ticket",
    tag=TAG,
    help="200 also where it is gone: then `found` is false, and `message` says why.",
    reply=record({"found": FLAG, "ticket": _TICKET, "message": TEXT}, ["ticket", "message"]),
    errors=(503,),
)
async def get_ticket(request: web.Request) -> web.Response:
    """Return one ticket; 200 also when it is gone."""
    status = await request.app[LINK].status()
    for ticket in status.tickets:
        if ticket.ticket_id == request.match_info["ticket_id"]:
            found = {**_ticket(request, ticket), "cancelled": False}
            return json_reply({"found": True, "ticket": found})
    text = "Ticket not in queue (may have been assigned or cancelled)"
    return json_reply({"found": False, "message": text})


@describe(
    "Cancel a ticket",
    tag=TAG,
    help='Its socket is told "Cancelled" and closed (1000). `success` is false where it is gone.',
    reply=record({"success": FLAG}),
    errors=(503,),
)
async def delete_ticket(request: web.Request) -> web.Response:
    """Cancel one ticket; its socket is told. Somebody else's: the admin alone, or anybody.

    Anybody, where no key is needed. A ticket that is not there is nobody's.
    """
    ticket_id, guard = request.match_info["ticket_id"], request.app[GUARD]
    tickets = (await request.app[LINK].status()).tickets
    for ticket in tickets:
        if ticket.ticket_id == ticket_id and not guard.owns(request[VISITOR], ticket.client_id):
            raise Forbidden("This ticket is another key's: the admin key is needed")
    success = await request.app[LINK].cancel_ticket(ticket_id)
    return json_reply({"success": success})


def _ticket(request: web.Request, ticket: TicketView) -> dict[str, object]:
    return {
        "ticket_id": ticket.ticket_id,
        "request_type": ticket.request_type,
        "session_id": shown_id(request, ticket.client_id),
        "position": ticket.position,
        "estimated_wait_s": ticket.estimated_wait_s,
        "enqueued_at": local_iso(ticket.enqueued_at),
    }
