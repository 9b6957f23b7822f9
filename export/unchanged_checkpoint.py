"""Check, before a manifest is written, that a checkpoint's folder holds what it held when its hashes were taken."""

from export.checkpoint.folder import Checkpoint, CheckpointError


def check_unchanged(checkpoint: Checkpoint, component: str | None = None) -> None:
    """Compare configs, defaults and the record of merged LoRAs with the folder, and the hash of `component` if named.

    A graph is traced from files that are read minutes after they were hashed. A second merge into the same folder
    replaces them in between. Of a large checkpoint only samples are hashed again: a change of other values is missed.
    Raises CheckpointError.
    """
    now = Checkpoint.open(checkpoint.folder)
    same = now == checkpoint and now.merged_loras == checkpoint.merged_loras
    if same and component is not None:
        same = now.hash_of(component) == checkpoint.hash_of(component)
    if not same:
        raise CheckpointError(
            f"{checkpoint.folder}: the checkpoint changed during the export, as by another merge into this folder or a "
            "download. Run it again when nothing else writes there; merges at the same time need a LORA_INTO=... each."
        )
