"""A certificate for development: its own authority and signer, made once and kept in a folder."""

import contextlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from wan_t2v_gateway.generation.marking import Certificate, Marker, MarkingError, library
from wan_t2v_gateway.settings import Settings

_NAME = "wan-t2v development, not trusted"
_LIFE, _RENEWED_BEFORE_END = timedelta(days=365), timedelta(days=30)


def marker_of(settings: Settings) -> Marker | None:
    """Make the marker that the settings name; None if files are not signed. Raises MarkingError."""
    if not settings.mark:
        return None
    if settings.mark == "development":
        return Marker(lambda: development_certificate(settings.data / "marking"), kind="development")
    folder = Path(settings.mark)
    return Marker(lambda: Certificate.read(folder / "chain.pem", folder / "key.pem"), kind="own")


def development_certificate(folder: Path) -> Certificate:
    """Return the certificate in the folder; make a new one unless it lasts for a while. It is not trusted."""
    chain, key = folder / "development-chain.pem", folder / "development-key.pem"
    with contextlib.suppress(MarkingError):  # none yet, or one that two gateways wrote at the same time
        kept = Certificate.read(chain, key)
        kept.check()
        if kept.validity()[1] - datetime.now(UTC) > _RENEWED_BEFORE_END:
            return kept
    folder.mkdir(parents=True, exist_ok=True)
    made = _make()
    _write(key, made.key)
    _write(chain, made.chain)
    return made


def _write(path: Path, data: bytes) -> None:
    path.touch(mode=0o600)  # private before it has any content
    path.write_bytes(data)


def _make() -> Certificate:
    """Make an authority, let it sign one signer, and discard its key."""
    serialization = library("cryptography.hazmat.primitives.serialization")
    ec = library("cryptography.hazmat.primitives.asymmetric.ec")
    x509 = library("cryptography.x509")
    authority_key, signer_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = _certificate(x509, _NAME + " (authority)", authority_key, authority_key, _NAME + " (authority)")
    signer = _certificate(x509, _NAME, signer_key, authority_key, _NAME + " (authority)")
    pem = serialization.Encoding.PEM
    key = signer_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Certificate(signer.public_bytes(pem) + authority.public_bytes(pem), key)


def _certificate(x509: Any, name: str, key: Any, issuers_key: Any, issuer: str) -> Any:
    """Make a certificate with the extensions that C2PA requires: a signer for e-mail, or a self-signed authority."""
    now, own = datetime.now(UTC), key is issuers_key
    other_uses = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    usage = dict.fromkeys((*other_uses, "crl_sign", "encipher_only", "decipher_only"), False)
    extensions = [
        (x509.BasicConstraints(ca=own, path_length=None), True),
        (x509.KeyUsage(digital_signature=not own, key_cert_sign=own, **usage), True),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(issuers_key.public_key()), False),
    ]
    if not own:
        extensions.append((x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.EMAIL_PROTECTION]), False))
    builder = (
        x509.CertificateBuilder()
        .subject_name(_named(x509, name))
        .issuer_name(_named(x509, issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + _LIFE)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(issuers_key, library("cryptography.hazmat.primitives.hashes").SHA256())


def _named(x509: Any, name: str) -> Any:
    oid = x509.oid.NameOID
    return x509.Name(
        [x509.NameAttribute(oid.ORGANIZATION_NAME, "development"), x509.NameAttribute(oid.COMMON_NAME, name)]
    )
