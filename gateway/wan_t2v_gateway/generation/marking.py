"""Sign a finished file as made by a model (C2PA), with the operator's certificate or one made for development.

Signing a file twice gives different bytes. Each attempt of a job signs and stores a file of its own; the record names
the one that it has the hash of.
"""

import importlib
import io
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)
_MADE_BY_A_MODEL = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


class MarkingError(Exception):
    """The certificate or the library cannot be used; the message says why."""


class CertificateExpired(MarkingError):
    """Nothing can be signed until the certificate is renewed."""


@dataclass(frozen=True)
class Certificate:
    """A certificate chain, the signer's own certificate first, and the signer's key; both PEM."""

    chain: bytes
    key: bytes
    algorithm: str = "es256"

    @classmethod
    def read(cls, chain: Path, key: Path) -> "Certificate":
        """Read the two PEM files. Raises MarkingError."""
        try:
            return cls(chain.read_bytes(), key.read_bytes())
        except OSError as error:
            raise MarkingError(f"the certificate for marking cannot be read: {error}") from None

    def validity(self) -> tuple[datetime, datetime]:
        """Return begin and end of the validity of the signer's own certificate. Raises MarkingError."""
        signer = self._signers()
        return signer.not_valid_before_utc, signer.not_valid_after_utc

    def is_valid(self) -> bool:
        """Whether the certificate is valid now. Raises MarkingError."""
        begin, end = self.validity()
        return begin <= datetime.now(UTC) <= end

    def check(self) -> None:
        """Raise MarkingError unless the key is the certificate's, and CertificateExpired unless that is valid now."""
        try:
            key = library("cryptography.hazmat.primitives.serialization").load_pem_private_key(self.key, None)
        except (ValueError, TypeError) as error:
            raise MarkingError(f"the key of the certificate for marking is not accepted: {error}") from None
        if key.public_key() != self._signers().public_key():
            raise MarkingError("the certificate for marking has another key")
        if not self.is_valid():
            begin, end = self.validity()
            raise CertificateExpired(f"the certificate for marking is valid only from {begin} to {end}: renew it")

    def _signers(self) -> Any:
        try:
            return library("cryptography.x509").load_pem_x509_certificate(self.chain)
        except ValueError as error:
            raise MarkingError(f"the certificate for marking is not accepted: {error}") from None


def library(name: str) -> Any:
    """Import a library that only the extra `marking` installs. Raises MarkingError."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise MarkingError("marking needs the extra `marking`: pip install 'wan-t2v-gateway[marking]'") from None


class Marker:
    """Signs MP4 files with the certificate that `read` returns. It may be renewed while the gateway runs.

    The constructor raises MarkingError if the library or certificate cannot be used.
    """

    def __init__(self, read: Callable[[], Certificate], *, kind: str) -> None:
        self._c2pa, self._read, self.kind = library("c2pa"), read, kind
        self._logged = ""
        self._certificate = self._checked(read())

    @property
    def expires_at(self) -> datetime:
        """End of the certificate's validity."""
        return self._certificate.validity()[1]

    def can_sign(self) -> bool:
        """Read the certificate again, and return whether it is valid now. The last one counts if that fails."""
        problem = ""
        try:
            self._certificate = self._checked(self._read())
        except (MarkingError, OSError) as error:
            problem = str(error)
        can = self._certificate.is_valid()
        if problem and problem != self._logged:  # once: the queue asks every few seconds
            _log.error("%s; %s", problem, "the one before is used" if can else "no job begins until then")
        self._logged = problem
        return can

    def _checked(self, certificate: Certificate) -> Certificate:
        """Return a certificate that can sign now. Raises MarkingError."""
        self._signer(certificate).close()
        certificate.check()
        return certificate

    def _signer(self, certificate: Certificate) -> Any:
        kinds = {"es256": self._c2pa.C2paSigningAlg.ES256}
        info = self._c2pa.C2paSignerInfo(kinds[certificate.algorithm], certificate.chain, certificate.key, None)
        try:
            return self._c2pa.Signer.from_info(info)
        except Exception as error:
            raise MarkingError(f"the certificate for marking is not accepted: {error}") from None

    def sign(self, video: bytes, *, title: str, model: str) -> bytes:
        """Return the file with a signed C2PA manifest in it. Raises CertificateExpired.

        The certificate is read again, since it may have been renewed while the video was made.
        """
        label = " (development certificate)" if self.kind == "development" else ""
        manifest = {
            "claim_generator_info": [{"name": f"wan-t2v-gateway{label}", "version": "0.1.0"}],
            "title": title,
            "format": "video/mp4",
            "assertions": [
                {
                    "label": "c2pa.actions",
                    "data": {
                        "actions": [
                            {
                                "action": "c2pa.created",
                                "digitalSourceType": _MADE_BY_A_MODEL,
                                "softwareAgent": {"name": model},
                            }
                        ]
                    },
                }
            ],
        }
        signed = io.BytesIO()
        self.can_sign()
        certificate = self._certificate  # the one of this signature, whatever is read meanwhile
        try:
            with self._signer(certificate) as signer, self._c2pa.Builder(json.dumps(manifest)) as builder:
                builder.sign(signer, "video/mp4", io.BytesIO(video), signed)
        except self._c2pa.C2paError:
            if not certificate.is_valid():  # it expired while the video was made, and was not renewed
                certificate.check()
            raise
        return signed.getvalue()
