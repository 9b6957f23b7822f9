"""Find tritonserver, its libraries and its Python stub inside the installed nvidia-pytriton wheel."""

import importlib.util
import os
import platform
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from embedded.errors import ServerError


@dataclass(frozen=True)
class TritonWheel:
    """Paths of the server's parts."""

    binary: Path
    backend: Path
    stub: Path
    caches: Path
    libraries: Path

    def assemble_backends(self, folder: Path) -> Path:
        """Make the folder for `--backend-directory`: the Python backend with the stub of this interpreter."""
        python = folder / "backends" / "python"
        if not python.exists():
            python.mkdir(parents=True)
            for part in ("libtriton_python.so", "triton_python_backend_utils.py"):
                (python / part).symlink_to(self.backend / part)
            (python / self.stub.name).symlink_to(self.stub)
        return folder / "backends"

    def environment(self) -> dict[str, str]:
        """Make the server's environment. Raises ServerError if PATH cannot hold this environment's path.

        The stub takes its standard library from the `python3` first on PATH and libpython from the first folder on
        LD_LIBRARY_PATH. If the two are of different builds, `import torch` crashes inside the stub. Folders that are
        on LD_LIBRARY_PATH already come last, since a GPU's driver may be found in one of them only.
        """
        programs = str(Path(sys.executable).parent)
        if os.pathsep in programs:
            raise ServerError(f"the environment's path {programs} holds a colon, which PATH cannot: move it elsewhere")
        return {
            **os.environ,
            "PATH": os.pathsep.join([programs, os.environ.get("PATH", "")]),
            "LD_LIBRARY_PATH": os.pathsep.join([*map(str, self.library_folders()), *inherited_library_path()]),
            "HF_HUB_OFFLINE": "1",
        }

    def library_folders(self) -> tuple[Path, Path]:
        """Return the folders of libpython and of Triton's own libraries, in this order. Raises ServerError."""
        return _libpython_folder(), self.libraries


def installed_wheel() -> TritonWheel:
    """Find the wheel in this environment. Raises ServerError if something is missing."""
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise ServerError("nvidia-pytriton is not installed in this environment; run `make setup`")
    package = Path(spec.origin).parent
    triton = package / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = triton / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.exists():
        offered = ", ".join(sorted(path.name for path in (triton / "python_backend_stubs").iterdir()))
        raise ServerError(f"the server has no stub for Python {version}; use one of {offered}")
    return TritonWheel(
        binary=triton / "bin" / "tritonserver",
        backend=triton / "backends" / "python",
        stub=stub,
        caches=triton / "caches",
        libraries=package.parent / "nvidia_pytriton.libs",
    )


def inherited_library_path() -> list[str]:
    """Return the folders on LD_LIBRARY_PATH. An empty entry would mean the current folder."""
    return [folder for folder in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if folder]


def _libpython_folder() -> Path:
    """Find the folder of this interpreter's shared libpython; a static interpreter needs its distribution's."""
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    configured = Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib")
    # an interpreter that was moved after its build, such as uv's, has its library beside it
    for folder in (configured, configured / f"{platform.machine()}-linux-gnu", Path(sys.base_prefix) / "lib"):
        if (folder / name).exists():
            return folder
    package = name.removesuffix(".so.1.0")
    raise ServerError(
        f"{name} is missing, which the server's Python stub needs: on Debian `apt-get install {package}`; "
        "an interpreter of your own must be built with --enable-shared"
    )
