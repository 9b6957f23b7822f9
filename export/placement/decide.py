"""Implementation of `python -m export placement`: choose a placement, and write its configs and server options."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from export.checkpoint.architecture import A14B, Architecture
from export.checkpoint.component_configs import check_experts_alike, read_architecture
from export.checkpoint.config_file import CheckpointError
from export.checkpoint.layout import check_layout
from export.placement.alternatives import Alternative, find_alternatives
from export.placement.gpu_memory import GpuMemory, ServingProfile, SettingsError, VaeEngine, unique_sizes
from export.placement.gpus import Gpu
from export.placement.layouts import Layout, Placement, Verdict
from export.placement.measured_plans import check_programs, measured_contexts
from export.placement.pick_layout import best_fit, best_of_each_layout
from export.placement.report import report_json, report_lines, shortage
from wan_t2v.contract import STREAM, UNARY
from wan_t2v.operate.model_control import KEY_VARIABLE, restriction_options


def decide(options: argparse.Namespace) -> None:
    """Choose a placement, print the report and write the configs.

    Exits with code 1 if the settings are wrong or nothing fits.
    """
    try:
        memory, gpus = _read_options(options)
        tried = best_of_each_layout(memory, gpus)
        choice = best_fit(tried)
        settled = choice is not None and choice.layout is not Layout.ONE_AT_A_TIME and choice.verdict is Verdict.FITS
        alternatives = [] if settled else find_alternatives(memory, gpus)
        deployed = _write_deployment(choice, options) if choice is not None else {}
        _print(tried, choice, alternatives, deployed=deployed, as_json=options.json)
        if choice is None:
            raise SettingsError(_nothing_fits(tried, alternatives))
    except (SettingsError, CheckpointError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def _read_options(options: argparse.Namespace) -> tuple[GpuMemory, list[Gpu]]:
    profile = ServingProfile(
        unique_sizes(options.size),
        experts=options.precision,
        text_encoder=options.text_encoder_precision,
        vae=options.vae_precision,
        endpoints=_endpoints(options.door, options.repository),
        text_encoder_device=None if options.text_encoder == "auto" else options.text_encoder,
        vae_engine=None if options.vae_engine == "auto" else VaeEngine(options.vae_engine),
        experts_in_torch=options.experts_engine == "torch",
    )
    memory = GpuMemory(_architecture(options.checkpoint), profile, measured_contexts(options.repository, profile))
    return memory, [Gpu.parse(text) for text in options.gpu]


def _architecture(checkpoint: Path | None) -> Architecture:
    """Read a checkpoint's config files, as the export does. Raises CheckpointError for another model."""
    if checkpoint is None:
        return A14B
    check_layout(checkpoint)
    check_experts_alike(checkpoint)
    return read_architecture(checkpoint)


def _endpoints(wanted: str, repository: Path) -> tuple[str, ...]:
    """Return the wanted endpoints that the repository has. Raises FileNotFoundError if it has none of them."""
    named = {"both": (UNARY, STREAM), "stream": (STREAM,), "unary": (UNARY,)}[wanted]
    served = tuple(endpoint for endpoint in named if (repository / endpoint / "config.pbtxt").exists())
    if not served:
        raise FileNotFoundError(f"{repository} has no model {' or '.join(named)}. Set --repository.")
    return served


def _write_deployment(choice: Placement, options: argparse.Namespace) -> dict[str, Any]:
    """Return the server's options and the torch programs to make first. With `--out`, write the configs.

    Raises SettingsError or FileNotFoundError.
    """
    from export.placement.configs import (
        launcher_command,
        programs_command,
        server_options,
        torch_graphs,
        write_configs,
    )

    name, graphs = options.out or "NAME", torch_graphs(choice)
    command = programs_command(choice, options.repository) if graphs else ""
    check_programs(options.repository, graphs, command)
    written = write_configs(choice, options.repository, options.out) if options.out else []
    return {
        "options": server_options(choice, options.repository, name),
        "launcher_command": launcher_command(choice, options.repository, name),
        "programs": graphs,
        "programs_command": command,
        "written": [str(path) for path in written],
    }


def _print(
    tried: list[Placement],
    choice: Placement | None,
    alternatives: list[Alternative],
    *,
    deployed: dict[str, Any],
    as_json: bool,
) -> None:
    if as_json:
        print(json.dumps({**report_json(tried, choice, alternatives), **deployed}))
        return
    print("\n".join(report_lines(tried, choice, alternatives)))
    if deployed and deployed["programs"]:
        print(f"\nMake the programs of what runs in torch first:\n  {deployed['programs_command']}")
    if deployed:
        print("\nStart Triton with its usual options and:")
        print("\n".join(f"  {option}" for option in deployed["options"]))
        print(f"and, so that nobody else loads models, a key of yours in the environment's {KEY_VARIABLE}:")
        print("\n".join(f"  {option}" for option in restriction_options(f"${KEY_VARIABLE}")))
        if deployed["launcher_command"]:
            print(f"or, without a container, with its Triton:\n  {deployed['launcher_command']}")
        print("\n".join(f"wrote {path}" for path in deployed["written"]) or "(--out NAME writes these configs)")


def _nothing_fits(tried: list[Placement], alternatives: list[Alternative]) -> str:
    nearest = max(tried, key=lambda placement: placement.least_free)
    helps = [alternative.change for alternative in alternatives if alternative.placement is not None]
    remedy = f"What would fit: {'; '.join(helps)}." if helps else "Take larger GPUs, smaller sizes or fewer of them."
    return f"nothing fits: even with {nearest.description}, {shortage(nearest)}. {remedy}"
