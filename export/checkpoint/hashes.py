"""Hash of a component's every byte: config and weights, file names included."""

import hashlib
from pathlib import Path


def content_sha256(folder: Path, component: str) -> str:
    """One hash over a component's config and weights, file names included."""
    digest = hashlib.sha256()
    for path in sorted((folder / component).iterdir()):
        if path.suffix in {".json", ".safetensors"}:
            digest.update(path.name.encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
