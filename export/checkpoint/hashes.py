"""Content hash of a component: every byte of its config and weights, and the file names."""

import hashlib
from pathlib import Path


def content_sha256(folder: Path, component: str) -> str:
    """Return one SHA-256 over the names and contents of a component's `.json` and `.safetensors` files."""
    digest = hashlib.sha256()
    for path in sorted((folder / component).iterdir()):
        if path.suffix in {".json", ".safetensors"}:
            digest.update(path.name.encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
