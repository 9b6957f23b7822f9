"""Connection settings: address, TLS, headers, keepalive."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tritonclient.grpc

from wan_t2v_client.deadline import check_seconds
from wan_t2v_client.errors import RequestRefused
from wan_t2v_client.transport.address import check_address
from wan_t2v_client.transport.headers import check_headers, secret_headers
from wan_t2v_client.transport.keepalive import KEEPALIVE_S, LEAST_KEEPALIVE_S, LONGEST_KEEPALIVE_S, channel_arguments
from wan_t2v_client.transport.proxy import proxy_arguments


@dataclass(frozen=True)
class Connection:
    """Settings of a gRPC connection.

    Attributes:
        url: `host:port`, without a scheme; or an address that gRPC resolves itself, such as `dns:///host:port`.
        tls: whether to encrypt.
        ca_file: PEM file of root certificates, in place of the system's.
        key_file, certificate_file: PEM files that authenticate this client.
        headers: sent with every call, such as `{"authorization": "Bearer ..."}`. Case does not matter in their names.
        keepalive_s: seconds between pings during a call; less than the default only where the server allows it, see
            `wan_t2v_client.transport.keepalive`.
    """

    url: str = "127.0.0.1:8001"
    tls: bool = False
    ca_file: Path | None = None
    key_file: Path | None = None
    certificate_file: Path | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    keepalive_s: float = KEEPALIVE_S

    def __post_init__(self) -> None:
        object.__setattr__(self, "headers", {str(name).lower(): value for name, value in self.headers.items()})

    def check(self) -> None:
        """Raise RequestRefused for settings that cannot work, before anything is sent."""
        check_address(self.url)
        check_headers(self.headers)
        check_seconds("keepalive_s", self.keepalive_s, least=LEAST_KEEPALIVE_S, longest=LONGEST_KEEPALIVE_S)
        self._check_files()

    def readable_headers(self) -> list[str]:
        """Return the names of headers that look secret but would be sent unencrypted."""
        return [] if self.tls or self.url.startswith("unix") else secret_headers(self.headers)

    def open(self) -> tritonclient.grpc.InferenceServerClient:
        """Make a gRPC client; it connects at the first call. Raises RequestRefused if the settings cannot work."""
        return self._open(tritonclient.grpc.InferenceServerClient)

    def open_asyncio(self) -> Any:
        """Make a gRPC client for asyncio. It belongs to the running event loop. Raises RequestRefused."""
        import tritonclient.grpc.aio

        return self._open(tritonclient.grpc.aio.InferenceServerClient)

    def _open(self, client: Any) -> Any:
        self.check()
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

    def _check_files(self) -> None:
        files = [path for path in (self.ca_file, self.key_file, self.certificate_file) if path is not None]
        if files and not self.tls:
            raise RequestRefused(f"{files[0]} is given without TLS, so nothing would be encrypted; add --tls")
        for path in files:
            if not path.is_file():
                raise RequestRefused(f"{path} is not a file")
        if (self.key_file is None) != (self.certificate_file is None):
            raise RequestRefused("a client's key_file and certificate_file go together; got one of them")
        try:
            self._load_files()
        except ssl.SSLError as error:
            names = ", ".join(map(str, files))
            raise RequestRefused(f"{names}: no usable PEM ({error.reason or 'unknown reason'})") from None
        except OSError as error:
            raise RequestRefused(f"cannot read {error.filename or files[0]}: {error.strerror}") from None

    def _load_files(self) -> None:
        """Load the PEM files: for a broken one, gRPC would only report an unreachable server."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.set_ciphers("DEFAULT:@SECLEVEL=0")  # the server decides whether a key is long enough
        if self.ca_file is not None:
            context.load_verify_locations(self.ca_file)
        if self.certificate_file is not None:
            context.load_cert_chain(self.certificate_file, self.key_file, password="")  # gRPC accepts no password


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
