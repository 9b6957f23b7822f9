"""Who may load models, and who may read the regions of a server that is open to all."""

import contextlib
import stat
from dataclasses import replace
from typing import Any

import pytest
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from embedded.options import ServerOptions
from embedded.server import running_server
from tests.server.calls import probe
from tests.server.lifecycle.looks import repaired, shared_memory_of
from tests.waiting import wait_until


def test_loading_models_needs_a_key_where_the_server_is_not_on_loopback(light: ServerOptions) -> None:
    """Bound to every interface, as a deployment would; called over loopback. A model that is unloaded comes back."""
    open_to_all, events = replace(light, host="0.0.0.0"), list[dict[str, Any]]()
    with (
        running_server(open_to_all, on_event=events.append) as server,
        InferenceServerClient(_on_loopback(server.grpc_url)) as client,
    ):
        assert client.is_server_ready()
        assert server.http_url.startswith("http://127.0.0.1:") and probe(server, "ready") == (0, "")
        assert region_modes(server.supervisor_pid) == {0o600}
        with pytest.raises(InferenceServerException, match="This protocol is restricted"):
            client.unload_model("mp4_encoder")
        client.unload_model("mp4_encoder", headers=open_to_all.admin_header)
        wait_until(lambda: repaired(events, "mp4_encoder") and client.is_server_ready(), limit_s=120)


def region_modes(supervisor_pid: int) -> set[int]:
    """Of the regions that are there: that of the start's check may go while one looks."""
    found = set()
    for region in shared_memory_of(supervisor_pid):
        with contextlib.suppress(FileNotFoundError):
            found.add(stat.S_IMODE(region.stat().st_mode))
    return found


def _on_loopback(url: str) -> str:
    return url.replace("0.0.0.0", "127.0.0.1")
