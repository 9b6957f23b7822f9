"""The server's part: what it needs, and what it reads out of Triton's log."""

from pathlib import Path

from benchmarks.gpu import run, server_part
from benchmarks.gpu.scale import Scale
from embedded.folder import ServerFolder
from embedded.options import ServerOptions, command_line
from embedded.wheel import TritonWheel


def test_a_repository_without_graphs_is_skipped_with_its_reason(scale: Scale, tmp_path: Path) -> None:
    rows = list(server_part.server(scale, repository=tmp_path))
    servers = [row for row in rows if row["what"] == "server"]
    assert len(servers) == 3 and all("make export" in row["skipped"] for row in servers)
    assert run.status_of(rows) == "skipped"


def test_the_pools_size_reaches_triton() -> None:
    nowhere = Path("/nowhere")
    wheel = TritonWheel(nowhere, nowhere, nowhere, nowhere, nowhere)
    folder = ServerFolder(nowhere, backends=nowhere, models=nowhere, checks=nowhere, libraries=())
    for size, told in ((None, []), (2**20, ["--cuda-memory-pool-byte-size=0:1048576"])):
        command = command_line(ServerOptions(cuda_pool_bytes=size), wheel, folder, shm_prefix="x")
        assert [argument for argument in command if "pool" in argument] == told


def test_a_log_tells_each_kind_of_warning_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    lines = [f'W1128 04:00:00.1 7 memory.cc:70] "failed to allocate {size} bytes"' for size in (123456, 654321)]
    log.write_text("\n".join([*lines, 'I1128 04:00:00.1 7 server.cc:1] "fine"']))
    assert server_part.log_messages(log) == ['2 x "failed to allocate N bytes"']
