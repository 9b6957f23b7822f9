"""Server to measure: a running one at a given address, or an embedded one for the duration of the benchmark."""

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path

from embedded.options import ServerOptions
from embedded.server import running_server


def add_server_options(parser: argparse.ArgumentParser) -> None:
    """Add `--url` for a running server and `--repository` for one that is started."""
    parser.add_argument("--url", help="gRPC address of a running server (default: start an embedded one)")
    parser.add_argument(
        "--repository",
        type=Path,
        default=Path("model_repository"),
        help="model repository of the server that is started",
    )


@contextlib.contextmanager
def server_under_test(url: str | None, repository: Path, folder: Path) -> Iterator[str]:
    """Yield the server's gRPC address. A started server writes its log into `folder`. Raises ServerError."""
    if url:
        yield url
        return
    with running_server(ServerOptions(repository=repository, log=folder / "server.log")) as server:
        yield server.grpc_url
