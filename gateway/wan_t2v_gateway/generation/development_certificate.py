"""A certificate for development: an authority and a signer of its own, made once and kept in a folder."""

import importlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from wan_t2v_gateway.generation.marking import Certificate, Marker, MarkingError
from wan_t2v_gateway.settings import Settings

_NAME = "wan-t2v development, not trusted"
_LIFE = timedelta(days=365)


def marker_of(settings: Settings) -> Marker | None:
    """What the settings ask for; None where files stay as they are. Raises MarkingError."""
    if not settings.mark:
        return None
    if settings.mark == "development":
        return Marker(development_certificate(settings.data / "marking"), kind="development")
    folder = Path(settings.mark)
    return Marker(Certificate.read(folder / "chain.pem", folder / "key.pem"), kind="own")


def development_certificate(folder: Path) -> Certificate:
    """The one in the folder, made if it is not there or soon over. Readers call it valid and untrusted."""
    chain, key = folder / "development-chain.pem", folder / "development-key.pem"
    if not (chain.exists() and key.exists() and _is_fresh(chain)):
        folder.mkdir(parents=True, exist_ok=True)
        made = _make()
        _write(key, made.key)
        _write(chain, made.chain)
    return Certificate.read(chain, key)


def _write(path: Path, data: bytes) -> None:
    path.touch(mode=0o600)  # nobody else's from its first moment on
    path.write_bytes(data)


def _is_fresh(chain: Path) -> bool:
    x509 = _module("cryptography.x509")
    certificate = x509.load_pem_x509_certificate(chain.read_bytes())
    return bool(certificate.not_valid_after_utc - datetime.now(UTC) > timedelta(days=7))


def _module(name: str) -> Any:
    """Of the package `cryptography`, which comes with the extra alone."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise MarkingError("a development certificate needs the extra `marking`") from None


def _make() -> Certificate:
    """An authority that signs one signer, and is then forgotten."""
    serialization = _module("cryptography.hazmat.primitives.serialization")
    ec = _module("cryptography.hazmat.primitives.asymmetric.ec")
    x509 = _module("cryptography.x509")
    authority_key, signer_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = _certificate(x509, _NAME + " (authority)", authority_key, authority_key, _NAME + " (authority)")
    signer = _certificate(x509, _NAME, signer_key, authority_key, _NAME + " (authority)")
    pem = serialization.Encoding.PEM
    key = signer_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Certificate(signer.public_bytes(pem) + authority.public_bytes(pem), key)


def _certificate(x509: Any, name: str, key: Any, issuers_key: Any, issuer: str) -> Any:
    """As the C2PA specification asks: for signing documents or e-mail, and no authority unless it signs itself."""
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
    return builder.sign(issuers_key, _module("cryptography.hazmat.primitives.hashes").SHA256())


def _named(x509: Any, name: str) -> Any:
    oid = x509.oid.NameOID
    return x509.Name(
        [x509.NameAttribute(oid.ORGANIZATION_NAME, "development"), x509.NameAttribute(oid.COMMON_NAME, name)]
    )
