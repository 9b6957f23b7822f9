"""Latent frames that one call of a VAE graph decodes: what a config asks for, and what the installed file takes."""

import json
from pathlib import Path
from typing import Any

from wan_t2v.contract import MODELS, STREAM, VAE_DECODERS
from wan_t2v.engines.loader import GRAPH_FILES
from wan_t2v.installed_files import InstalledFileError, parse_installed
from wan_t2v.serving.python_backend.parameters import ModelParameters

LATENT_FRAMES_PER_CALL = "latent_frames_per_call"
_FIRST = VAE_DECODERS[0]
_WITH_PARAMETER = ("vae_decoder", STREAM, *VAE_DECODERS)
_AXIS = "latent_frames"
_DIM = 1 + MODELS[_FIRST].inputs[0].dims.index(_AXIS)  # after the batch


def check_latent_frames(parameters: ModelParameters, folder: Path, engine: str) -> None:
    """Check that the graph in a version folder decodes as many latent frames per call as the config asks for.

    Else a clip would fail after all its steps. Raises InstalledFileError.
    """
    graph, file = folder.parent.name, GRAPH_FILES[engine]
    if graph not in VAE_DECODERS or LATENT_FRAMES_PER_CALL not in parameters.values:
        return
    wanted = parameters.integer(LATENT_FRAMES_PER_CALL, least=1)
    manifest = parse_installed(folder / file.manifest, lambda text: dict(json.loads(text)), command=file.command)
    most = _latent_frames_of(graph, engine, manifest)
    if most is not None and most < wanted:
        again = f", or make the file again, with the options of the run that made it: `{file.command}`"
        raise InstalledFileError(
            f"{folder / file.name} decodes {most} latent frame(s) per call, and {parameters.model}'s parameter "
            f"{LATENT_FRAMES_PER_CALL} is {wanted}. Set it to {most} in the configs of {', '.join(_WITH_PARAMETER)}"
            f"{'' if engine == 'tensorrt' else again}."
        )


def check_any_form(parameters: ModelParameters, folder: Path) -> None:
    """Check a graph that another model runs, by an engine that its own config names: one installed form must do.

    Raises InstalledFileError.
    """
    refusals = list[InstalledFileError]()
    installed = [engine for engine, file in GRAPH_FILES.items() if (folder / file.name).exists()]
    for engine in installed:
        try:
            check_latent_frames(parameters, folder, engine)
        except InstalledFileError as refusal:
            refusals.append(refusal)
    if refusals and len(refusals) == len(installed):
        raise refusals[0]


def _latent_frames_of(graph: str, engine: str, manifest: dict[str, Any]) -> int | None:
    """Return the most latent frames of a call; None if any number may come."""
    if engine == "tensorrt":
        return 1  # plans are static
    if engine == "torch":
        # older programs do not tell their axes; of these the second graph's took any number
        return None if _AXIS in manifest.get("dynamic_axes", ()) or graph != _FIRST else 1
    latents = manifest.get("inputs", {}).get("latents", ())
    return latents[_DIM] if len(latents) > _DIM and isinstance(latents[_DIM], int) else None
