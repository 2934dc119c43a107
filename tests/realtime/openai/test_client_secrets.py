"""Ephemeral keys: made by the real package, used in a handshake, gone when they expire."""

import json
import subprocess

import pytest
from openai import APIStatusError, AsyncOpenAI

from omni.realtime.openai.client_secrets import MAX_BYTES, ClientSecrets
from omni.realtime.openai.config import SessionConfig
from tests.conftest import RunningOmni
from tests.realtime.openai.talk import talking

CONFIG = SessionConfig(model="a model")

#: What a page does: no headers, the key among the subprotocols.
BROWSER = """
const [address, key] = process.argv.slice(1);
const socket = new WebSocket(address, ["realtime", `openai-insecure-api-key.${key}`]);
socket.onmessage = (message) => {
  const { type, session } = JSON.parse(message.data);
  console.log(JSON.stringify({ type, protocol: socket.protocol, said: session.instructions }));
  socket.close();
};
socket.onerror = (event) => { console.error(String(event.message)); process.exit(1); };
"""


async def test_a_session_begins_as_its_key_was_set(omni: RunningOmni) -> None:
    async with AsyncOpenAI(api_key="key", base_url=f"{omni.address}/v1") as client:
        made = await client.realtime.client_secrets.create(
            expires_after={"anchor": "created_at", "seconds": 60},
            session={"type": "realtime", "instructions": "Speak like a pirate."},
        )
    headers = {"Authorization": f"Bearer {made.value}"}
    async with talking(omni.address, extra_headers=headers) as talk:
        session = talk.events[0]["session"]

    assert made.value.startswith("ek_") and made.expires_at > 0
    assert made.session.to_dict()["instructions"] == session["instructions"]
    assert session["instructions"] == "Speak like a pirate."


async def test_a_wrong_session_is_refused_in_the_shape_of_openai(omni: RunningOmni) -> None:
    async with AsyncOpenAI(
        api_key="key", base_url=f"{omni.address}/v1", max_retries=0
    ) as client:
        with pytest.raises(APIStatusError) as refusal:
            await client.realtime.client_secrets.create(
                session={"type": "realtime", "max_output_tokens": -1}
            )

    assert refusal.value.status_code == 400
    assert refusal.value.body == {
        "message": "session.max_output_tokens: -1 is not in 1..4096",
        "type": "invalid_request_error",
        "param": "session.max_output_tokens",
        "code": "invalid_value",
    }


async def test_a_browser_connects_with_its_key_as_a_subprotocol(
    omni: RunningOmni, node: str
) -> None:
    async with AsyncOpenAI(api_key="key", base_url=f"{omni.address}/v1") as client:
        made = await client.realtime.client_secrets.create(
            session={"type": "realtime", "instructions": "From a page."}
        )
    address = f"{omni.websocket_address}/v1/realtime?model=gpt-realtime"

    command = [node, "--experimental-websocket", "-e", BROWSER, address, made.value]
    done = subprocess.run(command, capture_output=True, timeout=60, text=True)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "type": "session.created",
        "protocol": "realtime",
        "said": "From a page.",
    }


def test_a_key_expires() -> None:
    keys = ClientSecrets(10)

    value = keys.issue(CONFIG, expires_at=100.0)

    assert keys.find(value, 99.9) is CONFIG
    assert keys.find(value, 100.0) is None
    assert keys.find(value, 99.9) is None  # forgotten, whatever the clock says


def test_an_unknown_key_is_not_valid() -> None:
    assert ClientSecrets(10).find("ek_" + "0" * 64, 0.0) is None


def test_the_oldest_key_goes_when_there_are_too_many() -> None:
    keys = ClientSecrets(2)

    first, second, third = [keys.issue(CONFIG, 100.0) for _ in range(3)]

    assert keys.find(first, 0.0) is None
    assert keys.find(second, 0.0) and keys.find(third, 0.0)


def test_the_oldest_keys_go_when_all_together_begin_with_too_much() -> None:
    keys = ClientSecrets(1000)
    third = MAX_BYTES // 3

    values = [keys.issue(CONFIG, 100.0, num_bytes=third) for _ in range(5)]

    found = [keys.find(value, 0.0) is not None for value in values]
    assert found == [False, False, True, True, True]
    assert keys.find(values[2], 100.0) is None  # expired: its place is free
    keys.issue(CONFIG, 200.0, num_bytes=third)
    assert keys.find(values[3], 0.0) is not None


def test_a_key_knows_who_made_it() -> None:
    keys = ClientSecrets(10)

    value = keys.issue(CONFIG, expires_at=100.0, maker="api-1")

    assert keys.maker_of(value, 99.9) == "api-1"
    assert keys.maker_of(value, 100.0) is None
    assert keys.maker_of("ek_", 0.0) is None
