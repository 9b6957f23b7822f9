"""Check of a component's tensors before tracing: names, shapes and types must be those of its config.

Exports with weights inside the graph need it, since the loading library only warns about tensors that do not fit.
Exports with external weights need it, since they never load the weights.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import nn

from export.checkpoint.config_file import CheckpointError, listed
from export.checkpoint.meta_module import shell_of
from export.checkpoint.weights.foreign_weights import foreign_layout
from export.checkpoint.weights.safetensors_index import StoredTensor, stored_tensors
from export.checkpoint.weights.tensor_values import any_bit, are_equal, check_finite, check_no_holes, samples_are_equal

EMBEDDINGS = ("shared.weight", "encoder.embed_tokens.weight")  # UMT5 has one embedding matrix under two names
_PUBLISHED = "Take the text encoder from the published checkpoint."


def check_weights(checkpoint: Path, component: str, *, links_allowed: bool, values: bool, dummy: bool) -> None:
    """Check a component's tensors against its config, and refuse matrices of zeros unless it is a `dummy`.

    With `values`, also refuse infinities and NaN. Raises CheckpointError.
    """
    stored = weights_of(checkpoint, component, shell_of(checkpoint, component), links_allowed=links_allowed)
    if not dummy:
        check_no_holes(str(checkpoint / component), stored)
    if values:
        check_finite(str(checkpoint / component), stored)


def weights_of(
    checkpoint: Path, component: str, shell: nn.Module, *, links_allowed: bool = False
) -> dict[str, StoredTensor]:
    """Index the component's tensors by name, and check names and shapes against `shell`, its module without weights.

    Raises CheckpointError.
    """
    where = str(checkpoint / component)
    stored = stored_tensors(checkpoint, component, links_allowed=links_allowed)
    if component == "text_encoder":
        stored = with_one_embedding(where, stored)
    expected = {name: tuple(tensor.shape) for name, tensor in shell.state_dict().items()}
    ignored = getattr(shell, "_keys_to_ignore_on_load_unexpected", None) or ()
    check_tensors(where, expected, stored, ignored=ignored)
    return stored


def check_loaded(checkpoint: Path, component: str, module: nn.Module) -> None:
    """Compare a loaded module's values with those in the component's files, by samples. Raises CheckpointError.

    The libraries know ways to take weights from elsewhere, or to change them while they load, and get new ones.
    """
    where = str(checkpoint / component)
    stored, loaded = stored_tensors(checkpoint, component, links_allowed=True), module.state_dict()
    if component == "text_encoder":
        stored = with_one_embedding(where, stored)
        loaded.pop(EMBEDDINGS[0], None)  # the encoder reads the other name, and the two are not always tied
    other = [name for name, value in loaded.items() if name not in stored or not samples_are_equal(stored[name], value)]
    if other:
        raise CheckpointError(
            f"{where}: {len(other)} tensors were loaded with other values than those in the checked files: "
            f"{listed(other)}. The library took them from elsewhere. Keep nothing in the folder but config.json and "
            "the weights."
        )


def check_tensors(
    where: str,
    expected: Mapping[str, tuple[int, ...]],
    stored: Mapping[str, StoredTensor],
    *,
    ignored: Iterable[str] = (),
) -> None:
    """Compare the names and shapes that a component's config asks for with those in its files.

    Surplus names that contain one of `ignored` are accepted. Raises CheckpointError with the tensors at fault.
    """
    missing = [name for name in expected if name not in stored]
    surplus = [n for n in stored if n not in expected and not any(pattern in n for pattern in ignored)]
    layout = foreign_layout(surplus, missing)
    if layout is not None:
        raise CheckpointError(f"{where}: {layout}")
    shapes = [
        f"{name} is {stored[name].shape}, expected {shape}"
        for name, shape in expected.items()
        if name in stored and stored[name].shape != shape
    ]
    faults = {"missing": missing, "surplus": surplus, "of another shape": shapes}
    descriptions = [f"{len(names)} {fault}: {listed(names)}" for fault, names in faults.items() if names]
    if descriptions:
        raise CheckpointError(
            f"{where}: the weights do not fit config.json; tensors {'; '.join(descriptions)}. "
            "Take both from one download of the checkpoint."
        )


def with_one_embedding(where: str, stored: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Return UMT5's tensors with the embedding under both names, whichever of them the checkpoint has.

    Some versions of transformers save or load `encoder.embed_tokens` as zeros beside a good `shared`
    (huggingface/transformers#43992), which makes all prompts equal. Raises CheckpointError if every copy is zeros.
    """
    there = {name: stored[name] for name in EMBEDDINGS if name in stored}
    good = {name: tensor for name, tensor in there.items() if any_bit(tensor)}
    if there and not good:
        raise CheckpointError(
            f"{where}: {' and '.join(there)} holds only zeros: every prompt would mean the same. {_PUBLISHED}"
        )
    if len(good) == 2 and not are_equal(*good.values()):
        raise CheckpointError(
            f"{where}: {EMBEDDINGS[0]} and {EMBEDDINGS[1]} should be one matrix and differ. {_PUBLISHED}"
        )
    chosen = next(iter(good.values()), None)
    return {**stored, **(dict.fromkeys(EMBEDDINGS, chosen) if chosen else {})}
