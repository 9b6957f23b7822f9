"""The command `limits`: the server's sizes, ranges and defaults, as a table or as JSON."""

import argparse
import json
from typing import Any

from wan_t2v_client.cli.arguments import add_connection_options, connection_from
from wan_t2v_client.cli.standard_streams import print_result
from wan_t2v_client.limits import Limits
from wan_t2v_client.text_to_video import TextToVideo

_LONGEST_DEFAULT = 32  # characters of a default; a negative prompt is longer


def add_limits(commands: Any) -> None:
    """Add the command."""
    command: argparse.ArgumentParser = commands.add_parser(
        "limits", help="the server's sizes, and the range and default of every field"
    )
    command.add_argument("--json", action="store_true", help="print the server's own answer")
    command.set_defaults(run=_limits)
    add_connection_options(command)


def _limits(options: argparse.Namespace) -> int:
    with TextToVideo(connection_from(options)) as server:
        limits = server.limits(deadline_s=options.deadline_s)
    print_result(json.dumps(limits.document, indent=2) if options.json else table(limits))
    return 0


def table(limits: Limits) -> str:
    """Format the limits: one line per field, then the limits of a whole request."""
    lines = [("field", "default", "accepted")]
    for name, one in limits.fields.items():
        default = "required" if one.required else "" if one.default is None else str(one.default)
        lines.append((name, _shortened(default), f"{one.accepted() or one.type} {one.unit}".strip()))
    widths = [max(len(line[column]) for line in lines) for column in (0, 1)]
    rows = [f"{name:{widths[0]}}  {default:{widths[1]}}  {accepted}" for name, default, accepted in lines]
    sizes = ", ".join("x".join(map(str, size)) for size in limits.sizes) or "any within these ranges"
    exact = " or ".join(limits.exact_profiles)
    return "\n".join([
        *rows,
        f"height x width x frames: {sizes}",
        f"work: at most {limits.work.maximum_token_passes} tokens x passes of the experts",
        f"fewer than {limits.least_steps} steps: only with the step_profile {exact}",
    ])  # fmt: skip


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_DEFAULT else f"{text[: _LONGEST_DEFAULT - 3]}..."
