"""Where the server is and how to speak to it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tritonclient.grpc

from wan_t2v_client.errors import RequestRefused
from wan_t2v_client.keepalive import KEEPALIVE_S, channel_arguments
from wan_t2v_client.proxy import proxy_arguments


@dataclass(frozen=True)
class Connection:
    """A gRPC address and how it is secured.

    Attributes:
        url: `host:port`, without a scheme.
        tls: encrypt; `ca_file`, `key_file` and `certificate_file` (PEM) override the system's roots and name a client.
        headers: sent with every call, such as `{"authorization": "Bearer ..."}`.
        keepalive_s: seconds between pings during a call; less than the default only where the server allows it, see
            `wan_t2v_client.keepalive`.
    """

    url: str = "127.0.0.1:8001"
    tls: bool = False
    ca_file: Path | None = None
    key_file: Path | None = None
    certificate_file: Path | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    keepalive_s: float = KEEPALIVE_S

    def open(self) -> tritonclient.grpc.InferenceServerClient:
        """A gRPC client; it connects at the first call. Raises RequestRefused if the settings cannot work."""
        return self._opened(tritonclient.grpc.InferenceServerClient)

    def open_asyncio(self) -> Any:
        """The same for asyncio. It belongs to the event loop that runs now."""
        import tritonclient.grpc.aio

        return self._opened(tritonclient.grpc.aio.InferenceServerClient)

    def _opened(self, client: Any) -> Any:
        self._check()
        try:
            return client(
                self.url,
                ssl=self.tls,
                root_certificates=_text(self.ca_file),
                private_key=_text(self.key_file),
                certificate_chain=_text(self.certificate_file),
                channel_args=[*channel_arguments(self.keepalive_s), *proxy_arguments(self.url)],
            )
        except OSError as error:
            raise RequestRefused(f"cannot read {error.filename}: {error.strerror}") from None

    def _check(self) -> None:
        files = [path for path in (self.ca_file, self.key_file, self.certificate_file) if path is not None]
        if files and not self.tls:
            raise RequestRefused(f"{files[0]} is given without TLS, so nothing would be encrypted; add --tls")
        for path in files:
            if not path.is_file():
                raise RequestRefused(f"{path} is not a file")
        if not self.keepalive_s > 0:
            raise RequestRefused(f"keepalive_s: got {self.keepalive_s}; accepted is a number of seconds above 0")


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
