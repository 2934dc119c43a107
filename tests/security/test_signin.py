"""A cookie stands for the key that was shown, for a month, and cannot be made by others."""

import pytest

from omni.security.signin import MAX_AGE_S, issue, key_id_of

SECRET = b"s" * 32


def test_a_cookie_names_its_key_until_it_is_too_old() -> None:
    cookie = issue("api-1", SECRET, 1000.0)

    assert key_id_of(cookie, SECRET, 1000.0) == "api-1"
    assert key_id_of(cookie, SECRET, 999.0 + MAX_AGE_S) == "api-1"
    assert key_id_of(cookie, SECRET, 1000.0 + MAX_AGE_S) is None


@pytest.mark.parametrize(
    "forged",
    [
        "",
        ".",
        "..",
        "admin-1",
        issue("api-1", b"t" * 32, 1000.0),
        issue("api-1", SECRET, 1000.0).replace("api", "admin"),
        issue("api-1", SECRET, 1000.0)[:-1],
        issue("api-1", SECRET, 1000.0) + "a",
        "ключ.1.1",
        "\udcff.1.\udcff",
        "a" * 10_000,
    ],
)
def test_a_forged_cookie_names_nobody(forged: str) -> None:
    assert key_id_of(forged, SECRET, 1000.0) is None
