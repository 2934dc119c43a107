"""Each of our errors as OpenAI's clients know it: status, type, parameter, code."""

import pytest

from omni.errors import (
    RENDERINGS,
    ClientError,
    Forbidden,
    GenerationFailed,
    NotFound,
    NoWorker,
    OmniError,
    ProtocolError,
    QueueFull,
    TooLarge,
    WorkerLost,
    error_from_code,
)
from omni.openai.errors import ModelNotFound, Refusal, view_of
from omni.realtime.fields import FieldError

EXPECTED = [
    (ClientError("no"), 400, "invalid_request_error", None),
    (ProtocolError("no"), 400, "invalid_request_error", None),
    (Forbidden("no"), 403, "permission_error", "forbidden"),
    (NotFound("no"), 404, "invalid_request_error", "not_found"),
    (ModelNotFound("no"), 404, "invalid_request_error", "model_not_found"),
    (TooLarge("no"), 413, "invalid_request_error", "too_large"),
    (QueueFull("no", 7.0), 429, "rate_limit_error", "rate_limit_exceeded"),
    (NoWorker("no", 7.0), 503, "server_error", "no_worker"),
    (WorkerLost("no"), 503, "server_error", "worker_lost"),
    (GenerationFailed("no"), 500, "server_error", "generation_failed"),
    (OmniError("no"), 500, "server_error", None),
]


@pytest.mark.parametrize("error, status, kind, code", EXPECTED, ids=lambda item: str(item)[:20])
def test_an_error_has_status_type_and_code(
    error: OmniError, status: int, kind: str, code: str | None
) -> None:
    view = view_of(error)

    assert (view.status, view.type, view.code) == (status, kind, code)
    assert list(view.body) == ["error"]
    assert set(view.body["error"]) == {"message", "type", "param", "code"}  # type: ignore


def test_a_wrong_field_is_named_as_the_parameter() -> None:
    given = view_of(FieldError(("messages", 0, "content"), "is missing"))
    refused = view_of(Refusal(("n",), "only 1", "unsupported_value"))

    assert (given.status, given.param, given.code) == (400, "messages[0].content", "invalid_value")
    assert (refused.status, refused.param, refused.code) == (400, "n", "unsupported_value")


def test_trying_again_is_advised_where_it_helps() -> None:
    assert view_of(QueueFull("no", 7.0)).retry_after_s == 7.0
    assert view_of(ClientError("no")).retry_after_s is None


@pytest.mark.parametrize("code", sorted(RENDERINGS))
def test_every_error_that_may_travel_has_a_status_that_openai_has(code: str) -> None:
    view = view_of(error_from_code(code, "no"))

    assert view.status in {400, 401, 403, 404, 409, 413, 429, 500, 503}
