"""The command line: its parser, and the exit code of each failure."""

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from wan_t2v_client.cli.arguments import add_connection_options, connection_from
from wan_t2v_client.cli.batch import add_batch
from wan_t2v_client.cli.generate import add_generate
from wan_t2v_client.cli.limits_table import add_limits
from wan_t2v_client.cli.main import STOPPED
from wan_t2v_client.cli.standard_streams import StandardOutputError, print_result, tell
from wan_t2v_client.cli.termination import Terminated, raise_on_termination
from wan_t2v_client.errors import ClientError
from wan_t2v_client.text_to_video import TextToVideo

CANNOT_WRITE = 6


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command; failures end in one line on standard error and an exit code, never a traceback."""
    try:
        with raise_on_termination():
            options = _parser().parse_args(arguments)
            code: int = options.run(options)
            return code
    except ClientError as error:
        return _report_failure(str(error), error.exit_code)
    except StandardOutputError as error:
        return _report_failure(str(error), CANNOT_WRITE)
    except OSError as error:
        reason = error.strerror or str(error)
        return _report_failure(f"{error.filename}: {reason}" if error.filename else reason, CANNOT_WRITE)
    except Terminated as signal:
        return _report_failure(str(signal), signal.exit_code)
    except KeyboardInterrupt:
        return _report_failure("stopped", STOPPED)


def _report_failure(message: str, code: int) -> int:
    tell(f"wan-t2v: {message}")
    return code


class _Parser(argparse.ArgumentParser):
    """Reports an error in one line. argparse prints its usage first, and ignores a full standard output."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")

    def print_help(self, file: Any = None) -> None:
        print_result(self.format_help().rstrip("\n"))


def _parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = _Parser(prog="wan-t2v", description="Make videos from text on a Triton server.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_generate(commands)
    add_batch(commands)
    add_limits(commands)
    models = commands.add_parser("models", help="the server's models and how often each ran")
    models.set_defaults(run=_models)
    add_connection_options(models)
    return parser


def _models(options: argparse.Namespace) -> int:
    line = "{name:20} version {version:3} {requests:6} requests {executions:6} executions"
    with TextToVideo(connection_from(options)) as server:
        print_result("\n".join(line.format(**model) for model in server.models(deadline_s=options.deadline_s)))
    return 0
