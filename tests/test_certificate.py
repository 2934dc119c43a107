import ipaddress
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from omni.certificate import own_certificate, own_names, server_context
from omni.errors import SettingsError
from omni.settings import WebSettings


def test_the_first_start_makes_a_certificate_that_a_server_can_use(tmp_path: Path) -> None:
    context = server_context(WebSettings(), tmp_path)

    assert isinstance(context, ssl.SSLContext)
    assert (tmp_path / "certs" / "key.pem").stat().st_mode & 0o777 == 0o600


def test_the_certificate_names_this_machine(tmp_path: Path) -> None:
    path, _ = own_certificate(tmp_path, datetime.now(UTC))

    found = x509.load_pem_x509_certificate(path.read_bytes())
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses = names.get_values_for_type(x509.IPAddress)
    assert "localhost" in names.get_values_for_type(x509.DNSName)
    assert ipaddress.ip_address("127.0.0.1") in addresses
    assert len(addresses) + len(names.get_values_for_type(x509.DNSName)) == len(own_names())


def test_a_valid_certificate_is_kept(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    before = own_certificate(tmp_path, now)[0].read_bytes()

    after = own_certificate(tmp_path, now + timedelta(days=300))[0].read_bytes()

    assert after == before


def test_an_expired_certificate_is_renewed(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    before = own_certificate(tmp_path, now - timedelta(days=500))[0].read_bytes()

    renewed = own_certificate(tmp_path, now)[0].read_bytes()

    found = x509.load_pem_x509_certificate(renewed)
    assert renewed != before
    assert found.not_valid_after_utc > now


def test_a_broken_certificate_is_renewed(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("nothing")
    (tmp_path / "key.pem").write_text("nothing")

    certificate, key = own_certificate(tmp_path, datetime.now(UTC))

    ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key)


def test_plain_http_needs_none(tmp_path: Path) -> None:
    assert server_context(WebSettings(https=False), tmp_path) is None
    assert not (tmp_path / "certs").exists()


@pytest.mark.parametrize("key", ["", "no-such-key.pem"])
def test_given_files_that_cannot_be_used_stop_the_start(tmp_path: Path, key: str) -> None:
    settings = WebSettings(ssl_certfile=str(tmp_path / "no-such.pem"), ssl_keyfile=key)

    with pytest.raises(SettingsError, match="ssl_certfile"):
        server_context(settings, tmp_path)
