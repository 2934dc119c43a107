"""The server's own certificate: made at the first start, renewed when it has expired."""

import ipaddress
import logging
import os
import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from omni.errors import SettingsError
from omni.settings import WebSettings

log = logging.getLogger(__name__)

#: Longest that browsers accept for a certificate of a server (Apple, since 2020).
_LIFE = timedelta(days=397)
_RENEW_BEFORE = timedelta(days=7)
#: Address that no packet is sent to; asking for a way there tells this host's own address.
_ELSEWHERE = ("192.0.2.1", 9)


def server_context(settings: WebSettings, data_dir: Path) -> ssl.SSLContext | None:
    """Return the TLS set-up of the web process, None when it serves plain HTTP.

    Raises: SettingsError, when the given files cannot be used.
    """
    if not settings.https:
        return None
    certificate, key = certificate_files(settings, data_dir)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as exc:
        raise SettingsError(f"web.ssl_certfile {certificate} cannot be used: {exc}") from exc
    return context


def certificate_files(settings: WebSettings, data_dir: Path) -> tuple[Path, Path]:
    """Return certificate and key: those of the settings, else our own, made where they lack."""
    if settings.ssl_certfile or settings.ssl_keyfile:
        if not (settings.ssl_certfile and settings.ssl_keyfile):
            raise SettingsError("web.ssl_certfile and web.ssl_keyfile belong together")
        return Path(settings.ssl_certfile), Path(settings.ssl_keyfile)
    return own_certificate(data_dir / "certs", datetime.now(UTC))


def own_certificate(directory: Path, now: datetime) -> tuple[Path, Path]:
    """Return a self-signed certificate in *directory* that is valid at *now*, and its key."""
    certificate, key = directory / "cert.pem", directory / "key.pem"
    if not (key.exists() and _is_valid(certificate, now)):
        directory.mkdir(parents=True, exist_ok=True)
        private = ec.generate_private_key(ec.SECP256R1())
        _write(key, _key_pem(private), 0o600)
        _write(certificate, _certificate_pem(private, now), 0o644)
        log.info("made the certificate %s", certificate)
    return certificate, key


def own_names() -> list[str]:
    """Return the host names and addresses under which this machine may be opened."""
    names = {"localhost", "127.0.0.1", "::1", socket.gethostname()}
    try:
        names.update(str(info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), None))
    except OSError:
        log.debug("the host's own name has no address")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_ELSEWHERE)
            names.add(str(probe.getsockname()[0]))
        except OSError:
            log.debug("this host has no network")
    return sorted(name.split("%", 1)[0] for name in names if name)


def _is_valid(certificate: Path, now: datetime) -> bool:
    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
    except (OSError, ValueError):
        return False
    return found.not_valid_before_utc <= now <= found.not_valid_after_utc - _RENEW_BEFORE


def _certificate_pem(private: ec.EllipticCurvePrivateKey, now: datetime) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "omni")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + _LIFE)
        .add_extension(x509.SubjectAlternativeName(_alternatives()), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    )
    return builder.sign(private, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _alternatives() -> list[x509.GeneralName]:
    found: list[x509.GeneralName] = []
    for name in own_names():
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            found.append(x509.DNSName(name))
    return found


def _key_pem(private: ec.EllipticCurvePrivateKey) -> bytes:
    return private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _write(path: Path, content: bytes, mode: int) -> None:
    """Put *content* in place as a whole; nobody ever reads half a key, or one with a wider mode."""
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode), "wb") as file:
        file.write(content)
    new.replace(path)
