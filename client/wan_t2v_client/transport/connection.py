"""Connection settings: address, TLS, headers, keepalive."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]

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
        key_file, certificate_file: PEM files that authenticate this client. Names of files may also be texts.
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
        for name in ("ca_file", "key_file", "certificate_file"):
            object.__setattr__(self, name, _path(name, getattr(self, name)))

    def check(self) -> None:
        """Raise RequestRefused for settings that cannot work, before anything is sent."""
        check_address(self.url)
        check_headers(self.headers)
        check_seconds("keepalive_s", self.keepalive_s, least=LEAST_KEEPALIVE_S, longest=LONGEST_KEEPALIVE_S)
        self._check_files()

    def readable_headers(self) -> list[str]:
        """Return the names of headers that look secret but would be sent unencrypted."""
        return [] if self.tls or self.url.startswith("unix") else secret_headers(self.headers)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The headers as gRPC takes them."""
        return tuple(self.headers.items())

    def open_channel(self) -> grpc.Channel:
        """Make a gRPC channel; it connects at the first call. Raises RequestRefused if the settings cannot work."""
        return self._open(grpc)

    def open_channel_asyncio(self) -> grpc.aio.Channel:
        """Make a gRPC channel for asyncio. It belongs to the running event loop. Raises RequestRefused."""
        return self._open(grpc.aio)

    def open_asyncio(self) -> Any:
        """Make tritonclient's asyncio client likewise, for what this library does not ask. Raises RequestRefused."""
        import tritonclient.grpc.aio

        self.check()
        credentials = self._credentials() if self.tls else None
        return tritonclient.grpc.aio.InferenceServerClient(
            self.url, creds=credentials, channel_args=self._channel_arguments()
        )

    def _open(self, kind: Any) -> Any:
        self.check()
        if not self.tls:
            return kind.insecure_channel(self.url, options=self._channel_arguments())
        return kind.secure_channel(self.url, self._credentials(), options=self._channel_arguments())

    def _channel_arguments(self) -> list[tuple[str, Any]]:
        return [*channel_arguments(self.keepalive_s), *proxy_arguments(self.url)]

    def _credentials(self) -> grpc.ChannelCredentials:
        files = (self.ca_file, self.key_file, self.certificate_file)
        try:
            return grpc.ssl_channel_credentials(*(None if path is None else path.read_bytes() for path in files))
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


def _path(name: str, value: Any) -> Path | None:
    try:
        return None if value is None else Path(value)
    except TypeError:
        raise RequestRefused(f"{name}: got a {type(value).__name__}; accepted: the path of a file") from None
