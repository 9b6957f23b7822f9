"""`wan-t2v batch`: a file of prompts to a folder of MP4 files, and a report."""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from wan_t2v_client.async_text_to_video import AsyncTextToVideo
from wan_t2v_client.cli.arguments import (
    add_connection_options,
    add_patience_options,
    add_request_options,
    connection_from,
    fields_from,
    idle_limit_from,
    positive,
    retry_from,
)
from wan_t2v_client.cli.batch_file import requests_from_file
from wan_t2v_client.cli.batch_folder import BatchFolder
from wan_t2v_client.cli.batch_run import Outcome, Report, make_videos, skip_finished
from wan_t2v_client.cli.standard_streams import print_result, tell
from wan_t2v_client.cli.termination import run_until_terminated
from wan_t2v_client.transport.connection import Connection

SOME_FAILED = 1


def add_batch(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    command = commands.add_parser("batch", help="a file of prompts to a folder of MP4 files")
    command.set_defaults(run=_batch)
    command.add_argument(
        "prompts", type=Path, help="file: .txt with one prompt per line, or .jsonl with one object per line"
    )
    command.add_argument("--out", type=Path, default=Path("videos"), metavar="FOLDER",
                         help="folder to write to; finished videos there are kept (default: %(default)s)")  # fmt: skip
    command.add_argument("--concurrency", type=positive, default=2, metavar="N",
                         help="videos requested at a time (default: %(default)s)")  # fmt: skip
    command.add_argument("--json", action="store_true", help="print the report as one JSON object, for programs")
    add_request_options(command)
    add_patience_options(command)
    add_connection_options(command)


def _batch(options: argparse.Namespace) -> int:
    connection = connection_from(options)
    report = Report(requests_from_file(options.prompts, fields_from(options)))
    folder = BatchFolder(options.out)
    for request in skip_finished(report, folder):
        folder.check(request)
    started = time.monotonic()
    try:
        run_until_terminated(_videos(report, folder, connection, options=options))
    finally:  # after Ctrl-C too
        seconds = round(time.monotonic() - started, 2)
        print_result(json.dumps(_facts(report, folder, seconds=seconds)) if options.json else _text(report, seconds))
    return SOME_FAILED if report.ended("failed") else 0


async def _videos(report: Report, folder: BatchFolder, connection: Connection, *, options: argparse.Namespace) -> None:
    def show(outcome: Outcome) -> None:
        line = f"{outcome.kind} {folder.video(outcome.request)} in {outcome.seconds:.1f} s"
        reason = f", line {outcome.request.line}: {outcome.reason}" if outcome.reason else ""
        tell(f"[{len(report.outcomes)}/{len(report.requests)}] {line}{reason}")

    async with AsyncTextToVideo(connection, retry=retry_from(options)) as server:
        await make_videos(
            report,
            server=server,
            folder=folder,
            concurrency=options.concurrency,
            deadline_s=options.deadline_s,
            idle_limit_s=idle_limit_from(options),
            on_outcome=show,
        )


def _text(report: Report, seconds: float) -> str:
    counts = ", ".join(f"{len(report.ended(kind))} {kind}" for kind in ("made", "skipped", "failed"))
    lines = [f"{counts}, {len(report.unfinished())} unfinished, in {seconds} s"]
    lines += [
        f"  line {failed.request.line}, {failed.request.name}: {failed.reason}" for failed in report.ended("failed")
    ]
    return "\n".join(lines)


def _facts(report: Report, folder: BatchFolder, *, seconds: float) -> dict[str, Any]:
    def fact(outcome: Outcome) -> dict[str, Any]:
        facts: dict[str, Any] = {"line": outcome.request.line, "video": str(folder.video(outcome.request))}
        if outcome.reason:
            facts["reason"] = outcome.reason
        return facts

    return {
        **{kind: [fact(outcome) for outcome in report.ended(kind)] for kind in ("made", "skipped", "failed")},
        "unfinished": [{"line": request.line} for request in report.unfinished()],
        "seconds": seconds,
    }
