"""`/metrics` tells what happened, in a form that Prometheus reads, within closed sets of labels."""

import asyncio
import signal

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import RunningOmni, StartOmni
from tests.realtime.client import SPEECH, TIMEOUT_S, connected

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


async def scrape(omni: RunningOmni) -> Samples:
    """Return every sample by its name and labels."""
    async with aiohttp.ClientSession(omni.address) as http, http.get("/metrics") as reply:
        assert reply.status == 200 and reply.content_type == "text/plain"
        text = await reply.text()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    """Return one sample; 0 where there is none."""
    return samples.get((name, tuple(sorted(labels.items()))), 0.0)


async def test_a_units_way_is_told_by_kind_stage_and_hop(omni: RunningOmni) -> None:
    before = await scrape(omni)
    async with connected(omni.address, "/ws/duplex/adx_metrics") as client:
        await client.prepare()
        for _ in range(5):
            await client.send_chunk()
            await client.until("result")
        during = await scrape(omni)
    after = during

    def grown(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    async with asyncio.timeout(TIMEOUT_S):
        while not value(after, "omni_loop_lag_seconds_count") or not grown(
            "omni_sessions_ended_total", kind="audio_duplex", code="closed"
        ):
            after = await scrape(omni)
    assert grown("omni_unit_seconds_count", kind="audio_duplex") == 5
    assert grown("omni_stage_seconds_count", of="unit", stage="all") == 5
    assert grown("omni_hop_seconds_count", **{"from": "web", "to": "broker"}) == 5
    assert grown("omni_queue_wait_seconds_count", kind="audio_duplex") == 1
    assert value(during, "omni_sessions", kind="audio_duplex", state="leased") == 1
    assert value(during, "omni_slots", worker="worker-0", state="busy") == 1
    assert grown("omni_sessions_ended_total", kind="audio_duplex", code="closed") == 1
    assert grown("omni_session_bytes_total", way="to_worker") > 5 * 6400
    assert value(after, "omni_broker_up") == 1
    assert value(after, "process_resident_memory_bytes") > 0


async def test_requests_are_told_by_the_pattern_of_their_route(omni: RunningOmni) -> None:
    async with aiohttp.ClientSession(omni.address) as http:
        for path in ("/api/queue/q_1", "/api/queue/q_2", "/wp-login.php", "/no/such/page"):
            async with http.get(path):
                pass
        async with http.request("PROPFIND", "/health"):
            pass
    samples = await scrape(omni)

    def requests(method: str, route: str, status: str) -> float:
        return value(
            samples, "omni_http_requests_total", method=method, route=route, status=status
        )

    assert requests("GET", "/api/queue/{ticket_id}", "200") == 2
    assert requests("GET", "", "404") == 2
    assert requests("other", "", "405") == 1
    assert not [key for key in samples if "wp-login" in str(key) or "PROPFIND" in str(key)]


async def test_nothing_that_a_client_chooses_becomes_a_label(omni: RunningOmni) -> None:
    async with connected(omni.address, "/ws/half_duplex/hdx_mine", headers={"X-Mine": "mine"}) as c:
        await c.send("prepare", system_prompt="mine")
        await c.send("audio_chunk", audio_base64=SPEECH)
        samples = await scrape(omni)

    assert not [key for key in samples if "mine" in str(key)]


async def test_what_the_gate_refuses_is_counted(omni: RunningOmni) -> None:
    before = value(await scrape(omni), "omni_refused_total", code="forbidden")
    async with aiohttp.ClientSession(omni.address) as http:
        async with http.post("/api/chat", headers={"Origin": "http://evil.example"}):
            pass

    assert value(await scrape(omni), "omni_refused_total", code="forbidden") == before + 1


async def test_a_lost_worker_and_a_lost_broker_are_seen(start_omni: StartOmni) -> None:
    omni = start_omni()
    pid = omni.kill("worker-0")
    async with asyncio.timeout(3 * TIMEOUT_S):
        while value(await scrape(omni), "omni_worker_restarts_total", worker="worker-0") < 1:
            continue
        while omni.pid("worker-0") == pid:
            await asyncio.sleep(0.01)

        omni.kill("broker", signal.SIGSTOP)
        while value(samples := await scrape(omni), "omni_broker_up") == 1:
            continue

    assert value(samples, "omni_loop_lag_seconds_count") > 0  # web's own part is there as ever
    omni.stop()
