"""CPU-only tritonserver on an assembled repository, with a Python backend in place of TensorRT's."""

import contextlib
import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup

from embedded.cleanup import Belongings
from embedded.folder import ServerFolder, temporary_folder
from embedded.log import first_error
from embedded.options import ServerOptions, command_line
from embedded.process.confinement import confine
from embedded.process.triton_process import TritonProcess
from embedded.tensor_check import MODEL as TENSOR_CHECK
from embedded.wheel import installed_wheel
from wan_t2v.operate.model_control import KEY_HEADER
from wan_t2v.operate.run_directory import VARIABLE

CONFIG_SET = "rehearsal"
BACKEND = Path(__file__).with_name("tensorrt_backend.py")
POLL_S = 0.5


class RehearsalError(Exception):
    """A failed check of the rehearsal. The message says which."""


@dataclass(frozen=True)
class RehearsalServer:
    """A running server. `admin_key` gives access to its repository index."""

    url: str
    admin_key: str = field(repr=False)

    def states(self) -> dict[str, str]:
        """Return the state of every model of the repository, `READY` for a loaded one."""
        index: list[dict[str, str]] = json.loads(self._post("/v2/repository/index", {})[1])
        models = [model for model in index if model["name"] != TENSOR_CHECK]
        return {model["name"]: model.get("state", "not loaded") for model in models}

    def generate(self, model: str, fields: Mapping[str, Any]) -> tuple[int, str]:
        """Request a video, and return the HTTP status and the response's text."""
        verb = "generate_stream" if model.endswith("_stream") else "generate"
        return self._post(f"/v2/models/{model}/{verb}", fields)

    def _post(self, path: str, body: Mapping[str, Any]) -> tuple[int, str]:
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), {KEY_HEADER: self.admin_key})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=120) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


def write_cpu_configs(repository: Path, placed: str) -> None:
    """Write the config set CONFIG_SET: the placement's config set with every instance on the CPU."""
    for original in sorted(repository.glob("*/config.pbtxt")):
        folder = original.parent / "configs"
        chosen = folder / f"{placed}.pbtxt"
        source = chosen if chosen.exists() else original
        config = text_format.Parse(source.read_text(encoding="utf-8"), ModelConfig())
        for group in config.instance_group:
            if group.kind == ModelInstanceGroup.KIND_GPU:
                group.kind = ModelInstanceGroup.KIND_CPU
                del group.gpus[:]
        folder.mkdir(exist_ok=True)
        (folder / f"{CONFIG_SET}.pbtxt").write_text(text_format.MessageToString(config), encoding="utf-8")


@contextlib.contextmanager
def rehearsal_server(repository: Path, log: Path, placement_options: list[str]) -> Iterator[RehearsalServer]:
    """Serve `repository`, which must have its CPU configs, until the context ends. Raises RehearsalError."""
    options = ServerOptions(repository=repository, log=log, config_name=CONFIG_SET, start_limit_s=600).with_ports()
    belongings = Belongings.acquire(temporary_folder())
    try:
        triton = _start(options, belongings, placement_options)
        try:
            _wait(triton)
            yield RehearsalServer(f"http://{options.host}:{options.http_port}", options.admin_key)
        finally:
            triton.end()
    finally:
        belongings.remove()


def _start(options: ServerOptions, belongings: Belongings, placement_options: list[str]) -> TritonProcess:
    wheel = installed_wheel()
    folder = ServerFolder.link(belongings.folder, wheel, repository=options.repository)
    for part in (folder.backends / "python").iterdir():  # Triton loads no symbolic link as a Python-based backend
        copy = part.with_name(f"{part.name}.copy")
        shutil.copy(part, copy)
        copy.replace(part)
    (folder.backends / "tensorrt").mkdir()
    shutil.copyfile(BACKEND, folder.backends / "tensorrt" / "model.py")
    command = command_line(options, wheel, folder, shm_prefix=belongings.shm_prefix)
    known = {argument.partition("=")[0] for argument in command}
    command += [option for option in placement_options if option.partition("=")[0] not in known]
    options.log.parent.mkdir(parents=True, exist_ok=True)
    with options.log.open("wb") as log:
        process = subprocess.Popen(
            command,
            env={
                **wheel.environment(),
                "LD_LIBRARY_PATH": os.pathsep.join(map(str, folder.libraries)),
                VARIABLE: str(belongings.run_directory),
            },
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=belongings.locks,
            start_new_session=True,
            preexec_fn=confine,
        )
    return TritonProcess(options, folder, belongings, process)


def _wait(triton: TritonProcess) -> None:
    """Wait until the server is ready. Raises RehearsalError after the start limit.

    With `--exit-on-error` the server exits if a model cannot be loaded.
    """
    deadline = time.monotonic() + triton.options.start_limit_s
    while not triton.is_ready():
        if time.monotonic() > deadline:
            reason = first_error(triton.options.log) or "no error in its log"
            raise RehearsalError(f"the server is not ready: {reason} (log: {triton.options.log})")
        time.sleep(POLL_S)
