"""Server options, and Triton's command line made of them."""

import ipaddress
import secrets
from dataclasses import dataclass, field, replace
from pathlib import Path

from embedded.folder import ServerFolder
from embedded.ports import Listener, addresses, choose_ports, url_host
from embedded.tensor_check import MODEL as TENSOR_CHECK
from embedded.wheel import TritonWheel
from wan_t2v.operate.model_control import restriction_options

LOOPBACK = "127.0.0.1"
TEXT_CACHE_BYTES = 16 * 2**20  # about 250 prompts of wan-mini, 4 of A14B


@dataclass(frozen=True)
class ServerOptions:
    """Settings of one embedded server. A port of 0 takes a free one.

    Attributes:
        host: address on which gRPC listens.
        http_host, metrics_host: addresses of HTTP and metrics. Empty for `host` if that is loopback, else for
            127.0.0.1: Triton 2.51's HTTP server is not fit for a network.
        config_name: name of the `configs/<name>.pbtxt` that each model uses; empty for `config.pbtxt` itself.
        models: models to load, such as one endpoint's; empty for all of the repository.
        text_cache_bytes: size of Triton's response cache, which holds text embeddings.
        start_limit_s, stop_limit_s: longest start in seconds, and longest stop before the server is killed.
        traces_url: an OpenTelemetry collector's address for traces over HTTP; empty for none.
        cuda_pool_bytes: Triton's memory pool on the first GPU; None keeps Triton's default of 64 MiB.
        admin_key: key to load and unload models, to register shared memory, and to change traces and the log.
    """

    repository: Path = Path("model_repository")
    host: str = LOOPBACK
    http_host: str = ""
    metrics_host: str = ""
    grpc_port: int = 0
    http_port: int = 0
    metrics_port: int = 0
    config_name: str = "cpu"
    models: tuple[str, ...] = ()
    log: Path = Path("build/server.log")
    text_cache_bytes: int = TEXT_CACHE_BYTES
    start_limit_s: float = 180.0
    stop_limit_s: float = 40.0
    traces_url: str = ""
    cuda_pool_bytes: int | None = None
    admin_key: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)

    @property
    def hosts(self) -> dict[str, str]:
        """Address on which each protocol listens, by Triton's name of the protocol."""
        inside = self.host if _is_loopback(self.host) else LOOPBACK
        return {"grpc": self.host, "http": self.http_host or inside, "metrics": self.metrics_host or inside}

    @property
    def http_address(self) -> str:
        """Host and port of HTTP, in the form of a URL."""
        return f"{url_host(self.hosts['http'])}:{self.http_port}"

    @property
    def admin_header(self) -> dict[str, str]:
        """Header of a gRPC call that loads or unloads a model."""
        return {"triton-grpc-protocol-admin-key": self.admin_key}

    @property
    def ports(self) -> dict[str, int]:
        """Every port by the name of its setting."""
        return {"GRPC_PORT": self.grpc_port, "HTTP_PORT": self.http_port, "METRICS_PORT": self.metrics_port}

    def with_ports(self) -> "ServerOptions":
        """Return the options with a free port for each 0. Raises ServerError if an address or a port cannot be used."""
        # an empty host is made of HOST, which is then at fault
        prefixes = ("", "HTTP_" if self.http_host else "", "METRICS_" if self.metrics_host else "")
        chosen = choose_ports([
            Listener(setting, port, host, prefix)
            for (setting, port), host, prefix in zip(self.ports.items(), self.hosts.values(), prefixes, strict=True)
        ])  # fmt: skip
        return replace(
            self,
            grpc_port=chosen["GRPC_PORT"],
            http_port=chosen["HTTP_PORT"],
            metrics_port=chosen["METRICS_PORT"],
        )


def _is_loopback(host: str) -> bool:
    return all(ipaddress.ip_address(address).is_loopback for address in addresses(host))


# The server pings a silent client every 30 s, and allows clients pings every 10 s. By default it waits two hours, and
# ends the call of a client that pings more than once in five minutes.
KEEPALIVE = (
    "--grpc-keepalive-time=30000",
    "--grpc-keepalive-timeout=20000",
    "--grpc-http2-max-pings-without-data=0",
    "--grpc-http2-min-recv-ping-interval-without-data=10000",
)


def _models_to_load(options: ServerOptions) -> tuple[str, ...]:
    return (*options.models, TENSOR_CHECK) if options.models else ("*",)


def environment(options: ServerOptions) -> dict[str, str]:
    """Return the additional environment of the models' processes: the address for their spans."""
    return {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": options.traces_url} if options.traces_url else {}


def command_line(options: ServerOptions, wheel: TritonWheel, folder: ServerFolder, *, shm_prefix: str) -> list[str]:
    """Make Triton's command line, with every relevant default spelled out."""
    command = [
        str(wheel.binary),
        f"--model-repository={folder.models}",
        f"--model-repository={folder.checks}",
        f"--backend-directory={folder.backends}",
        f"--cache-directory={wheel.caches}",
        f"--cache-config=local,size={options.text_cache_bytes}",
        f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
        "--disable-auto-complete-config",  # else every model is imported twice
        "--model-control-mode=explicit",  # the supervisor reloads a model whose process died
        *(f"--load-model={model}" for model in _models_to_load(options)),
        "--exit-on-error=true",
        "--exit-timeout-secs=10",  # more would save no video: calls fail as soon as the server is stopping
    ]
    command += KEEPALIVE
    if options.config_name:
        command.append(f"--model-config-name={options.config_name}")
    for (protocol, host), port in zip(options.hosts.items(), options.ports.values(), strict=True):
        command += [f"--{protocol}-address={host}", f"--{protocol}-port={port}"]
    if options.cuda_pool_bytes is not None:
        command.append(f"--cuda-memory-pool-byte-size=0:{options.cuda_pool_bytes}")
    if options.traces_url:
        command += [
            "--trace-config=mode=opentelemetry",
            f"--trace-config=opentelemetry,url={options.traces_url}",
            "--trace-config=level=TIMESTAMPS",
            "--trace-config=rate=1",
        ]
    # Restricted on loopback too: other users of the machine can reach it, and so can any web page in its browsers.
    return command + restriction_options(options.admin_key)
