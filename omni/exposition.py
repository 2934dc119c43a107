"""The text of `/metrics`: the meter of this process, and the broker's status of the moment."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

from attrs import asdict, frozen
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric

from omni import __version__
from omni.messages import RequestType, Status
from omni.meter import Meter, Tally
from omni.recording.recorder import RecordingCounters

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_WORKER_STATES = ("offline", "loading", "ready", "probation", "draining", "error")

Labels = tuple[str, ...]
_Labels = TypeVar("_Labels", bound=tuple[str, ...])
Sessions = Mapping[tuple[RequestType, bool], int]


@frozen(kw_only=True, eq=False)
class Snapshot:
    """What is to be told at one scrape. status: None where the broker did not answer in time."""

    meter: Meter
    sessions: Sessions
    status: Status | None
    recordings: RecordingCounters | None
    callers: int

    def collect(self) -> Iterator[Metric]:
        """Yield every metric; the name is prometheus_client's for a collector."""
        yield _gauge("omni_info", "Version of this server", ("version",), {(__version__,): 1})
        yield from _of_meter(self.meter)
        yield _gauge(
            "omni_sessions",
            "Sessions of this web process, with a slot or waiting for one",
            ("kind", "state"),
            {
                (kind, "leased" if leased else "waiting"): count
                for (kind, leased), count in self.sessions.items()
            },
        )
        callers = {(): self.callers}
        yield _gauge("omni_limited_callers", "Callers whose requests are counted", (), callers)
        is_there = {(): float(self.status is not None)}
        yield _gauge("omni_broker_up", "Whether the broker answered this scrape", (), is_there)
        if self.status is not None:
            yield from _of_broker(self.status)
        if self.recordings is not None:
            yield from _of_recordings(self.recordings)


class Exposition:
    """Renders snapshots; knows the process that it runs in."""

    def __init__(self) -> None:
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)
        PlatformCollector(registry=self._process)

    def text(self, snapshot: Snapshot) -> bytes:
        """Return the whole answer to a scrape."""
        registry = CollectorRegistry()
        registry.register(snapshot)
        return generate_latest(registry) + generate_latest(self._process)


def _of_meter(meter: Meter) -> Iterator[Metric]:
    yield _histogram(
        "omni_unit_seconds",
        "From a duplex chunk's arrival at web to its answer there",
        ("kind",),
        (((kind,), tally) for kind, tally in meter.units.items()),
    )
    yield _counter(
        "omni_late_units",
        "Units that took longer than their chunk lasts",
        ("kind",),
        {(kind,): count for kind, count in meter.late_units.items()},
    )
    yield _histogram(
        "omni_stage_seconds",
        "Compute time by stage, as the engine tells it, of a unit, a turn or a chat",
        ("of", "stage"),
        meter.stages.items(),
    )
    yield _histogram(
        "omni_hop_seconds",
        "Time between two stamps of a unit's way; processes of one host",
        ("from", "to"),
        meter.hops.items(),
    )
    yield _histogram(
        "omni_queue_wait_seconds",
        "From the request for a slot to the lease",
        ("kind",),
        (((kind,), tally) for kind, tally in meter.waits.items()),
    )
    yield _counter(
        "omni_sessions_ended",
        "Sessions that are over; code: closed, or of the error that ended them",
        ("kind", "code"),
        meter.ended,
    )
    by_way = ("way",)
    yield _counter(
        "omni_session_bytes",
        "Bytes of sessions between web and workers",
        by_way,
        {(way,): count for way, count in meter.num_bytes.items()},
    )
    yield _counter(
        "omni_session_messages",
        "Messages of sessions between web and workers",
        by_way,
        {(way,): count for way, count in meter.num_messages.items()},
    )
    yield _counter(
        "omni_http_requests",
        "Requests answered, by the pattern of their route; a WebSocket when it is over",
        ("method", "route", "status"),
        {(item.method, item.route, str(item.status)): n for item, n in meter.answered.items()},
    )
    yield _histogram(
        "omni_http_request_seconds",
        "Time to the end of the answer, without WebSockets",
        ("route",),
        (((route,), tally) for route, tally in meter.answer_times.items()),
    )
    yield _counter(
        "omni_refused",
        "Requests that the gate refused, by the code of the error",
        ("code",),
        {(code,): count for code, count in meter.refused.items()},
    )
    yield _histogram(
        "omni_loop_lag_seconds",
        "How late the event loop of web is, twice a second",
        (),
        [((), meter.loop_lag)],
    )


def _of_broker(status: Status) -> Iterator[Metric]:
    slots: dict[tuple[str, str], float] = {}
    states: dict[tuple[str, str], float] = {}
    for worker in status.workers:
        slots[worker.name, "busy"] = len(worker.tasks)
        slots[worker.name, "free"] = max(0, worker.num_slots - len(worker.tasks))
        for state in _WORKER_STATES:
            states[worker.name, state] = float(worker.state == state)
    yield _gauge("omni_slots", "Slots by worker", ("worker", "state"), slots)
    yield _gauge("omni_worker_state", "1 for the state of a worker", ("worker", "state"), states)
    yield _counter(
        "omni_worker_restarts",
        "Starts of a worker after its first",
        ("worker",),
        {(worker.name,): worker.restarts for worker in status.workers},
    )
    yield _counter(
        "omni_worker_sessions",
        "Sessions that a worker has served",
        ("worker",),
        {(worker.name,): worker.total_requests for worker in status.workers},
    )
    length, longest = len(status.tickets), max((t.waited_s for t in status.tickets), default=0.0)
    yield _gauge("omni_queue_length", "Tickets that wait", (), {(): length})
    yield _gauge("omni_queue_max_length", "Tickets that may wait", (), {(): status.max_queue_size})
    yield _gauge("omni_queue_longest_wait_seconds", "Of those that wait", (), {(): longest})
    yield _gauge("omni_broker_uptime_seconds", "Since its start", (), {(): status.uptime_s})
    yield _counter(
        "omni_broker_events",
        "The broker's counters; docs/protocol.md, section 9",
        ("event",),
        {(event,): count for event, count in sorted(status.counters.items())},
    )


def _of_recordings(counters: RecordingCounters) -> Iterator[Metric]:
    values = asdict(counters)
    yield _gauge("omni_recordings_active", "Recorded now", (), {(): values.pop("active")})
    written = values.pop("written_bytes")
    yield _counter("omni_recording_bytes", "Bytes written to journals", (), {(): written})
    yield _counter(
        "omni_recordings",
        "Recordings by what became of them, and records left out",
        ("event",),
        {(event,): count for event, count in values.items()},
    )


def _gauge(
    name: str, text: str, labels: Labels, values: Mapping[_Labels, float]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=labels)
    for given, value in values.items():
        family.add_metric(given, value)
    return family


def _counter(
    name: str, text: str, labels: Labels, values: Mapping[_Labels, float]
) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=labels)
    for given, value in values.items():
        family.add_metric(given, value)
    return family


def _histogram(
    name: str, text: str, labels: Labels, tallies: Iterable[tuple[_Labels, Tally]]
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, text, labels=labels)
    for given, tally in tallies:
        so_far, buckets = 0, []
        for bound, count in zip((*tally.bounds, float("inf")), tally.counts, strict=True):
            so_far += count
            buckets.append(("+Inf" if bound == float("inf") else repr(bound), so_far))
        family.add_metric(given, buckets, sum_value=tally.sum)
    return family
