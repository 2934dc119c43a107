"""OpenAI's client and the MiniCPM-o engine on the tiny checkpoint: it sees, hears and speaks."""

import base64
import io
from collections.abc import AsyncIterator, Iterator

import aiohttp
import openai
import pytest
from openai import AsyncOpenAI

from omni.audio import OUTPUT_HZ, waveform_from_pcm16
from omni.containers import read_sound
from tests.conftest import RunningOmni, StartOmni
from tests.minicpmo.test_video import RATE_HZ, make_video
from tests.openai.conftest import MODEL, TIMEOUT_S, picture_url, sdk, sound_file

pytest.importorskip("torch")
from omni.minicpmo.tiny_checkpoint import write_tiny_checkpoint  # noqa: E402  # needs torch

SPEECH = "omni/assets/default_voice.wav"


@pytest.fixture(scope="module")
def seer(
    start_omni: StartOmni, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningOmni]:
    directory = tmp_path_factory.mktemp("tiny")
    write_tiny_checkpoint(directory, seed=7)
    settings = {"model.engine": "auto", "fabric.slots": 2, "fabric.heartbeat_misses": 100}
    running = start_omni(settings, "--model", str(directory))
    yield running
    running.stop()


@pytest.fixture
async def client(seer: RunningOmni) -> AsyncIterator[AsyncOpenAI]:
    async with sdk(seer, timeout_s=2 * TIMEOUT_S) as made:
        yield made


async def test_the_published_model_is_listed(client: AsyncOpenAI) -> None:
    (model,) = [item async for item in client.models.list()]

    assert (model.id, model.owned_by) == ("MiniCPM-o-4_5", "openbmb")
    assert (await client.models.retrieve("MiniCPM-o-4_5")).id == model.id


@pytest.mark.parametrize("detail, num_places", [("low", 64), ("high", 3 * 64)])
async def test_a_picture_is_seen_and_counted(
    client: AsyncOpenAI, detail: str, num_places: int
) -> None:
    picture = {"url": picture_url((1200, 400), "JPEG"), "detail": detail}
    parts = [{"type": "text", "text": "Look"}, {"type": "image_url", "image_url": picture}]

    reply = await client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": parts}],  # type: ignore[list-item]
        max_completion_tokens=5,
        seed=3,
    )

    assert reply.usage is not None and reply.usage.prompt_tokens_details is not None
    details = reply.usage.prompt_tokens_details.model_dump()
    assert details["image_tokens"] == num_places
    assert reply.usage.prompt_tokens == sum(
        details[name] for name in ("text_tokens", "audio_tokens", "image_tokens")
    )
    assert reply.usage.completion_tokens <= 5


async def test_sound_is_heard_and_the_answer_spoken(client: AsyncOpenAI) -> None:
    data = base64.b64encode(sound_file(2.0, "MP3")).decode()
    part = {"type": "input_audio", "input_audio": {"data": data, "format": "mp3"}}

    reply = await client.chat.completions.create(
        model=MODEL,
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [part]},  # type: ignore[list-item]
        ],
        modalities=["text", "audio"],
        audio={"voice": "alloy", "format": "wav"},
        max_completion_tokens=12,
    )

    message, usage = reply.choices[0].message, reply.usage
    assert message.audio is not None and message.audio.transcript
    assert len(read_sound(io.BytesIO(base64.b64decode(message.audio.data)), 60)) > 8000
    assert usage is not None and usage.prompt_tokens_details is not None
    assert usage.completion_tokens_details is not None
    assert usage.prompt_tokens_details.audio_tokens in (20, 21)
    spoken = usage.completion_tokens_details.audio_tokens
    assert spoken is not None and spoken > 10
    assert usage.completion_tokens > spoken


async def test_a_film_is_seen_and_heard(client: AsyncOpenAI) -> None:
    film = base64.b64encode(make_video(3 * RATE_HZ, sound_s=3.0)).decode()
    part = {"type": "video_url", "video_url": {"url": f"data:video/x-msvideo;base64,{film}"}}

    reply = await client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": [part]}],  # type: ignore[list-item]
        max_completion_tokens=4,
    )

    assert reply.usage is not None and reply.usage.prompt_tokens_details is not None
    details = reply.usage.prompt_tokens_details.model_dump()
    assert details["image_tokens"] == 3 * 64
    assert details["audio_tokens"] in range(28, 33)


async def test_a_voice_is_found_by_its_name_or_id_and_others_are_the_default(
    client: AsyncOpenAI, seer: RunningOmni
) -> None:
    """The model hears the voice, too: ten tokens of sound a second, in front of the talk."""

    async def heard(voice: object) -> int | None:
        reply = await client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Hello"}],
            modalities=["text", "audio"],
            audio={"voice": voice, "format": "wav"},  # type: ignore[typeddict-item]
            max_completion_tokens=3,
        )
        assert reply.usage is not None and reply.usage.prompt_tokens_details is not None
        return reply.usage.prompt_tokens_details.audio_tokens

    body = {"name": "Kathryn", "audio_base64": base64.b64encode(sound_file(2.0)).decode()}
    async with aiohttp.ClientSession(seer.address) as http:
        async with http.post("/api/assets/ref_audio", json=body) as reply:
            voice_id = (await reply.json())["id"]

    assert await heard("kathryn") == await heard({"id": voice_id}) == 20
    assert await heard("alloy") == await heard({"id": "nobody"}) != 20


async def test_a_text_is_read_out_as_it_is_made(client: AsyncOpenAI) -> None:
    async with client.audio.speech.with_streaming_response.create(
        model=MODEL, input="One two three four five.", voice="alloy", response_format="pcm"
    ) as reply:
        samples = waveform_from_pcm16(await reply.read())

    assert len(samples) > OUTPUT_HZ / 2


async def test_speech_is_written_down_with_counts(client: AsyncOpenAI) -> None:
    with open(SPEECH, "rb") as file:
        reply = await client.audio.transcriptions.create(model=MODEL, file=file, language="en")

    assert reply.usage is not None and reply.usage.type == "tokens"
    assert reply.usage.input_token_details is not None
    assert (reply.usage.input_token_details.audio_tokens or 0) > 10


async def test_a_language_that_it_does_not_write_is_refused(client: AsyncOpenAI) -> None:
    with open(SPEECH, "rb") as file:
        with pytest.raises(openai.BadRequestError, match="'fr'"):
            await client.audio.transcriptions.create(model=MODEL, file=file, language="fr")


async def test_a_picture_that_breaks_off_is_told_after_the_headers(client: AsyncOpenAI) -> None:
    """Its head is well-formed; only who decodes all of it can know."""
    whole = base64.b64decode(picture_url((400, 400), "JPEG").partition(",")[2])
    broken = "data:image/jpeg;base64," + base64.b64encode(whole[: len(whole) // 3]).decode()
    picture = {"type": "image_url", "image_url": {"url": broken}}

    stream = await client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": [picture]}],  # type: ignore[list-item]
        stream=True,
    )
    with pytest.raises(openai.APIError, match="picture"):
        async for _ in stream:
            pass


async def test_the_same_picture_is_a_bad_request_without_a_stream(client: AsyncOpenAI) -> None:
    whole = base64.b64decode(picture_url((400, 400), "JPEG").partition(",")[2])
    broken = "data:image/jpeg;base64," + base64.b64encode(whole[: len(whole) // 3]).decode()
    picture = {"type": "image_url", "image_url": {"url": broken}}

    with pytest.raises(openai.BadRequestError, match="picture"):
        await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": [picture]}]  # type: ignore
        )


async def test_a_seed_makes_an_answer_repeat(client: AsyncOpenAI) -> None:
    async def ask(seed: int) -> str | None:
        reply = await client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Tell me something"}],
            seed=seed,
            temperature=1.5,
            max_completion_tokens=20,
        )
        return reply.choices[0].message.content

    assert await ask(1) == await ask(1) != await ask(2)
