"""The list of models, and what is not there at all."""

import openai
import pytest
from openai import AsyncOpenAI, OpenAI


def test_the_served_model_is_listed(sync_client: OpenAI) -> None:
    (model,) = sync_client.models.list()

    assert (model.id, model.object, model.owned_by) == ("omni-null", "model", "omni")
    assert isinstance(model.created, int) and model.created > 1_600_000_000


async def test_a_model_is_shown_by_its_id(client: AsyncOpenAI) -> None:
    (listed,) = [model async for model in client.models.list()]

    assert await client.models.retrieve(listed.id) == listed


async def test_another_model_is_not_found(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await client.models.retrieve("gpt-4o")

    error = caught.value
    assert (error.code, error.param) == ("model_not_found", "model")
    assert "omni-null" in error.message


async def test_a_path_that_is_not_there_says_so_in_openai_s_shape(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await client.embeddings.create(model="any", input="hello")

    assert (caught.value.code, caught.value.type) == ("unknown_url", "invalid_request_error")
    assert "/v1/embeddings" in caught.value.message


async def test_recordings_are_not_translated_and_the_way_out_is_told(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="/v1/chat/completions"):
        await client.post("/audio/translations", cast_to=object, body={})


async def test_a_wrong_method_is_told_with_the_right_ones(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        await client.get("/chat/completions", cast_to=object)

    assert caught.value.status_code == 405
    assert caught.value.response.headers["allow"] == "POST"
