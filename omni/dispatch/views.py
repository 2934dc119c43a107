"""What status shows of the broker's state; also the answer to `/status` and `/api/queue`."""

from typing import TYPE_CHECKING, Literal

from omni.dispatch.leases import Lease
from omni.dispatch.workers import Peer, WorkerRecord
from omni.messages import Status, TaskView, TicketView, WorkerView

if TYPE_CHECKING:  # the dispatcher imports this module
    from omni.dispatch.dispatcher import Dispatcher

ShownState = Literal["offline", "loading", "ready", "probation", "draining", "error"]


def status_of(dispatcher: "Dispatcher", request: int, now_s: float) -> Status:
    """Return everything that the broker knows, with fresh estimates."""
    dispatcher.line.estimate(now_s)
    records = sorted(dispatcher.peers.records.values(), key=lambda record: record.name)
    return Status(
        request=request,
        uptime_s=round(now_s - dispatcher.started_at_s, 3),
        max_queue_size=dispatcher.max_queue_size,
        tickets=_tickets(dispatcher, now_s),
        workers=tuple(_worker(dispatcher, record, now_s) for record in records),
        webs=tuple(sorted(peer.name for peer in dispatcher.peers if peer.role == "web")),
        eta=dispatcher.eta.view(),
        counters=dict(dispatcher.counters),
    )


def _tickets(dispatcher: "Dispatcher", now_s: float) -> tuple[TicketView, ...]:
    return tuple(
        TicketView(
            ticket_id=ticket.ticket_id,
            request_type=ticket.request_type,
            client_id=ticket.client_id,
            position=ticket.position,
            estimated_wait_s=ticket.wait_s,
            enqueued_at=ticket.enqueued_at_s + dispatcher.unix_offset_s,
            waited_s=round(now_s - ticket.enqueued_at_s, 3),
        )
        for ticket in dispatcher.line
    )


def _worker(dispatcher: "Dispatcher", record: WorkerRecord, now_s: float) -> WorkerView:
    peer = dispatcher.peers.named(record.name)
    heard_at_s = record.heard_at_s if peer is None else peer.heard_at_s
    leases = [lease for lease in dispatcher.leases if lease.worker == record.name]
    return WorkerView(
        name=record.name,
        state=_shown_state(peer, record, dispatcher.is_draining),
        gpu=record.gpu,
        host=record.host,
        pid=record.pid,
        num_slots=len(dispatcher.leases.slots_of(record.name)),
        tasks=tuple(_task(dispatcher, lease, now_s) for lease in leases),
        total_requests=record.num_sessions,
        mean_duration_ms=round(record.mean_duration_ms, 1),
        last_heartbeat=heard_at_s + dispatcher.unix_offset_s,
        restarts=max(0, record.starts - 1),
        capabilities=None if peer is None else peer.capabilities,
    )


def _shown_state(peer: Peer | None, record: WorkerRecord, all_drain: bool) -> ShownState:
    if peer is None:
        return "offline" if record.expected else "error"
    if peer.is_drained or (all_drain and peer.state == "ready"):
        return "draining"
    if peer.on_probation:
        return "probation"
    return peer.state


def _task(dispatcher: "Dispatcher", lease: Lease, now_s: float) -> TaskView:
    elapsed_s = now_s - lease.started_at_s
    remaining_s = dispatcher.eta.shown_remaining_s(lease.request_type, elapsed_s)
    return TaskView(
        worker=lease.worker,
        request_type=lease.request_type,
        client_id=lease.client_id,
        started_at=lease.started_at_s + dispatcher.unix_offset_s,
        elapsed_s=round(elapsed_s, 3),
        estimated_remaining_s=round(remaining_s, 1),
    )
