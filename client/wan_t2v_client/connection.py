"""Where the server is and how to speak to it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import tritonclient.grpc

from wan_t2v_client.errors import RequestRefused


@dataclass(frozen=True)
class Connection:
    """A gRPC address and how it is secured.

    Attributes:
        url: `host:port`, without a scheme.
        tls: encrypt; `ca_file`, `key_file` and `certificate_file` (PEM) override the system's roots and name a client.
        headers: sent with every call, such as `{"authorization": "Bearer ..."}`.
    """

    url: str = "127.0.0.1:8001"
    tls: bool = False
    ca_file: Path | None = None
    key_file: Path | None = None
    certificate_file: Path | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def open(self) -> tritonclient.grpc.InferenceServerClient:
        """A gRPC client; it connects at the first call. Raises RequestRefused if the settings cannot work."""
        files = [path for path in (self.ca_file, self.key_file, self.certificate_file) if path is not None]
        if files and not self.tls:
            raise RequestRefused(f"{files[0]} is given without TLS, so nothing would be encrypted; add --tls")
        for path in files:
            if not path.is_file():
                raise RequestRefused(f"{path} is not a file")
        try:
            return tritonclient.grpc.InferenceServerClient(
                self.url,
                ssl=self.tls,
                root_certificates=_text(self.ca_file),
                private_key=_text(self.key_file),
                certificate_chain=_text(self.certificate_file),
                # a video can take minutes without a byte on the wire, and load balancers drop silent connections
                keepalive_options=tritonclient.grpc.KeepAliveOptions(
                    keepalive_time_ms=60_000, keepalive_timeout_ms=20_000, keepalive_permit_without_calls=False
                ),
            )
        except OSError as error:
            raise RequestRefused(f"cannot read {error.filename}: {error.strerror}") from None


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
