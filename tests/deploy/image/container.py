"""A container of a rendered manifest, run on this machine with its own command lines."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.image.serve import REGION_PREFIX
from embedded.process.confinement import end_with_parent
from embedded.wheel import installed_wheel
from tests.deploy.rendering import ROOT
from wan_t2v.operate.shared_memory import FOLDER, remove_regions

LOOPBACK = "127.0.0.1"
NEWER = (
    "--grpc-max-response-pool-size",
    "--http-max-input-size",
)  # options of the image's Triton that 2.51 does not know
STOP_LIMIT_S = 90.0


@dataclass(frozen=True)
class Container:
    """A container's `manifest`, and what stands in this machine for what it names.

    Attributes:
        volumes: folder by the volume's name; a path below a mount is the path below its folder.
        ports: port by the container port's name.
        secrets: value by the environment variable that takes it from a Secret.
    """

    manifest: Mapping[str, Any]
    volumes: Mapping[str, Path]
    ports: Mapping[str, int] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)

    def here(self, text: str) -> str:
        """The same argument for this machine."""
        mounts = {mount["mountPath"]: mount["name"] for mount in self.manifest["volumeMounts"]}
        known = {path: str(self.volumes[name]) for path, name in mounts.items() if name in self.volumes}
        longest_first = sorted(known, key=len, reverse=True)
        pattern = rf"(?<![\w./-])({'|'.join(map(re.escape, longest_first))})(?![\w.-])"
        text = re.sub(pattern, lambda found: known[found[1]], text) if known else text
        for port in self.manifest.get("ports", []):
            if port["name"] in self.ports:
                text = re.sub(rf"(?<=[:=]){port['containerPort']}\b", str(self.ports[port["name"]]), text)
        return re.sub(r"\$\((\w+)\)", lambda found: self.environment()[found[1]], text)

    def environment(self) -> dict[str, str]:
        """The variables that the manifest names."""
        named = self.manifest.get("env", [])
        return {entry["name"]: self.here(entry["value"]) for entry in named if "value" in entry} | dict(self.secrets)

    def ran(self, command: list[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
        """Run a command of the container to its end."""
        return subprocess.run(
            [self.here(argument) for argument in command],
            cwd=ROOT,
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def started(self, command: list[str]) -> subprocess.Popen[str]:
        """Begin a command of the container."""
        return subprocess.Popen(
            [self.here(argument) for argument in command],
            cwd=ROOT,
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def says_yes(self, probe: str) -> bool:
        """Ask a probe as kubelet does: yes is exit code 0 within `timeoutSeconds`."""
        asked = self.manifest[probe]
        assert {"exec", "httpGet", "grpc", "tcpSocket"} & asked.keys() == {"exec"}
        try:
            return self.ran(asked["exec"]["command"], asked["timeoutSeconds"]).returncode == 0
        except subprocess.TimeoutExpired:
            return False

    def _environment(self) -> dict[str, str]:
        """The image's Python is first on its PATH, as this one is here."""
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        return {**os.environ, "PATH": path, **self.environment()}

    @contextlib.contextmanager
    def running(self, log: Path) -> Iterator[subprocess.Popen[bytes]]:
        """Start the container's own command, tritonserver with the manifest's arguments; nothing of it is left."""
        wheel, prefix = installed_wheel(), f"wan_t2v_{os.getpid()}_"
        path = os.pathsep.join([str(Path(sys.executable).parent), str(wheel.binary.parent), os.environ["PATH"]])
        with tempfile.TemporaryDirectory() as folder, log.open("wb") as output:
            # where the image has its backends and caches by default; a container has a network of its own
            ours = [
                f"--backend-directory={wheel.assemble_backends(Path(folder))}",
                f"--cache-directory={wheel.caches}",
                f"{REGION_PREFIX}{prefix}",
                *(f"--{protocol}-address={LOOPBACK}" for protocol in ("http", "grpc", "metrics")),
            ]
            known = [argument for argument in self.manifest["args"] if not argument.startswith((*NEWER, REGION_PREFIX))]
            command = [*self.manifest["command"], *known]
            process = subprocess.Popen(
                [*(self.here(argument) for argument in command), *ours],
                cwd=ROOT,
                env={**wheel.environment(), **self.environment(), "PATH": path},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )
            try:
                yield process
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait(STOP_LIMIT_S)
                remove_regions(FOLDER, prefix)
