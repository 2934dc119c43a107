"""SIGKILL of the real engine in mid-conversation, as a client on a socket lives through it."""

from tests.conftest import RunningOmni
from tests.e2e.call import calling, speaks, text_of
from tests.e2e.conftest import Say, words

STORY = "Tell me a story about the sea."
SKY = "Why is the sky blue?"


async def test_a_killed_worker_is_told_and_a_new_call_is_answered(
    pocket: RunningOmni, say: Say
) -> None:
    async with calling(pocket.websocket_address, "adx_killed") as call:
        await call.send(say(STORY))
        await call.quiet_until(speaks)

        before = pocket.kill("worker-0")
        told = await call.client.until("error")
        code = await call.client.closed()
    async with calling(pocket.websocket_address, "adx_killed") as call:
        answer = await call.ask(say(SKY))

    assert (told["error"], told["code"], code) == ("Worker lost", "worker_lost", 1011)
    assert told["message"] and pocket.pid("worker-0") != before
    assert "scattering" in words(text_of(answer)) and "sea" not in words(text_of(answer))
