"""Hashes of a checkpoint's components: of every byte, or of samples where a component is large."""

import hashlib
from pathlib import Path

from export.checkpoint.folder import is_small
from export.checkpoint.weights.safetensors_index import content_sample_sha256
from wan_t2v.manifests import CheckpointHash


def checkpoint_hash(checkpoint: Path, component: str) -> CheckpointHash:
    """Hash of a component's weights and config, or, of a large one, of samples of it."""
    if is_small(checkpoint):
        return CheckpointHash(component_sha256(checkpoint, component))
    return CheckpointHash(content_sample_sha256(checkpoint, component), sampled=True)


def component_sha256(folder: Path, component: str) -> str:
    """One hash over a component's config and weights, file names included."""
    digest = hashlib.sha256()
    for path in sorted((folder / component).iterdir()):
        if path.suffix in {".json", ".safetensors"}:
            digest.update(path.name.encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
