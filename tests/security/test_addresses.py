"""Tricks with hosts, origins and forwarded addresses are seen through."""

import pytest

from omni.security.addresses import (
    Place,
    caller_of,
    client_address,
    is_loopback,
    is_own_host,
    is_own_origin,
    place_of,
)


@pytest.mark.parametrize(
    "origin, host",
    [
        ("http://here.lan:8006", "here.lan:8006"),
        ("HTTP://Here.LAN:8006", "here.lan:8006"),
        ("http://here.lan", "here.lan:80"),
        ("http://here.lan:80", "here.lan"),
        ("https://here.lan", "here.lan"),
        ("https://here.lan", "here.lan:443"),
        ("http://[::1]:8006", "[::1]:8006"),
        ("http://[FE80::1]:8006", "[fe80::1]:8006"),
        ("https://127.0.0.1:8006", "127.0.0.1:8006"),
    ],
)
def test_a_page_of_the_host_itself_is_our_own(origin: str, host: str) -> None:
    assert is_own_origin(origin, host, is_tls=False)


@pytest.mark.parametrize(
    "origin, host",
    [
        ("null", "here.lan:8006"),
        ("", "here.lan:8006"),
        ("http://evil.example", "here.lan:8006"),
        ("http://here.lan:8007", "here.lan:8006"),
        ("http://here.lan", "here.lan:8006"),
        ("http://here.lan:8006@evil.example", "here.lan:8006"),
        ("http://user@here.lan:8006", "here.lan:8006"),
        ("http://here.lan:8006.evil.example", "here.lan:8006"),
        ("http://evil.example/here.lan:8006", "here.lan:8006"),
        ("http://here.lan:8006/", "here.lan:8006"),
        ("http://here.lan:8006#", "here.lan:8006"),
        ("http://here.lan.:8006", "here.lan:8006"),
        ("http://here.lan\t:8006", "here.lan:8006"),
        ("here.lan:8006", "here.lan:8006"),
        ("//here.lan:8006", "here.lan:8006"),
        ("file://here.lan:8006", "here.lan:8006"),
        ("chrome-extension://here.lan:8006", "here.lan:8006"),
        ("http://[::1]:8006", "[::2]:8006"),
        ("http://::1:8006", "[::1]:8006"),
        ("http://here.lan:8006", ""),
        ("http://", ""),
        ("http://a@b", "a@b"),
    ],
)
def test_any_other_page_is_not(origin: str, host: str) -> None:
    assert not is_own_origin(origin, host, is_tls=False)


def test_a_page_that_came_without_tls_is_not_ours_where_we_serve_tls() -> None:
    assert not is_own_origin("http://here.lan:8006", "here.lan:8006", is_tls=True)
    assert is_own_origin("https://here.lan:8006", "here.lan:8006", is_tls=True)


@pytest.mark.parametrize(
    "host", ["localhost:8006", "LOCALHOST", "127.0.0.1", "127.8.9.1:1", "[::1]:8006", "a.localhost"]
)
def test_a_server_on_loopback_answers_to_the_names_of_loopback(host: str) -> None:
    assert is_own_host(host, (), only_loopback=True)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8006",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "localhost@evil.example",
        "[::1].evil.example",
        "10.0.0.1",
        "0.0.0.0:8006",
        "",
        "localhost:8006, evil.example",
        "[::ffff:10.0.0.1]",
        "127.0.0.1:99999999",
    ],
)
def test_a_name_that_was_pointed_to_loopback_is_found_out(host: str) -> None:
    assert not is_own_host(host, (), only_loopback=True)


def test_names_can_be_allowed_and_then_no_other_is() -> None:
    assert is_own_host("talk.example:443", ("talk.example",), only_loopback=True)
    assert is_own_host("talk.example", ("talk.example",), only_loopback=False)
    assert not is_own_host("other.example", ("talk.example",), only_loopback=False)
    assert is_own_host("whatever.example", (), only_loopback=False)


@pytest.mark.parametrize(
    "host, loopback",
    [
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("127.0.0.2", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.2", False),
        ("my-machine", False),
    ],
)
def test_loopback_is_this_machine_alone(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback


def test_a_host_and_port_are_read_strictly() -> None:
    assert place_of("[::1]:80") == Place("::1", 80)
    assert place_of("a.b") == Place("a.b")
    assert place_of("a:b") is None


@pytest.mark.parametrize(
    "forwarded, address",
    [
        ("", "10.0.0.1"),
        ("203.0.113.5", "203.0.113.5"),
        ("198.51.100.1, 203.0.113.5", "203.0.113.5"),  # the first was invented by the client
        ("198.51.100.1, 203.0.113.5, 10.0.0.2", "203.0.113.5"),
    ],
)
def test_a_trusted_proxy_says_who_asks(forwarded: str, address: str) -> None:
    assert client_address("10.0.0.1", forwarded, ("10.0.0.1", "10.0.0.2")) == address


def test_nobody_else_is_believed() -> None:
    assert client_address("203.0.113.9", "127.0.0.1", ("10.0.0.1",)) == "203.0.113.9"


def test_a_network_of_ipv6_is_one_caller() -> None:
    assert caller_of("2001:db8::1") == caller_of("2001:db8::ffff:1") == "2001:db8::/64"
    assert caller_of("2001:db8:0:1::1") != caller_of("2001:db8::1")
    assert caller_of("::ffff:192.0.2.1") == caller_of("192.0.2.1") == "192.0.2.1"
    assert caller_of("fe80::1%eth0") == "fe80::/64"
    assert len(caller_of("x" * 1000)) == 64
