"""Sign a finished file as made by a model (C2PA), with the operator's certificate or one made for development.

Signing a file twice gives different bytes. Each attempt of a job signs and stores a file of its own; the record names
the one that it has the hash of.
"""

import importlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_MADE_BY_A_MODEL = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


class MarkingError(Exception):
    """The certificate or the library cannot be used; the message says why."""


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


class Marker:
    """Signs MP4 files. The constructor raises MarkingError if the library or certificate cannot be used."""

    def __init__(self, certificate: Certificate, *, kind: str) -> None:
        try:
            self._c2pa: Any = importlib.import_module("c2pa")
        except ImportError:
            raise MarkingError("marking needs the extra `marking`: pip install 'wan-t2v-gateway[marking]'") from None
        self._certificate, self.kind = certificate, kind
        self._signer()

    def _signer(self) -> Any:
        kinds = {"es256": self._c2pa.C2paSigningAlg.ES256}
        info = self._c2pa.C2paSignerInfo(
            kinds[self._certificate.algorithm], self._certificate.chain, self._certificate.key, None
        )
        try:
            return self._c2pa.Signer.from_info(info)
        except Exception as error:
            raise MarkingError(f"the certificate for marking is not accepted: {error}") from None

    def sign(self, video: bytes, *, title: str, model: str) -> bytes:
        """Return the file with a signed C2PA manifest in it."""
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
        with self._signer() as signer, self._c2pa.Builder(json.dumps(manifest)) as builder:
            builder.sign(signer, "video/mp4", io.BytesIO(video), signed)
        return signed.getvalue()
