"""The command `wan-t2v`."""

import argparse
import sys
from collections.abc import Sequence

from wan_t2v_client.arguments import add_connection_options, connection_from
from wan_t2v_client.batch_command import add_batch
from wan_t2v_client.errors import ClientError
from wan_t2v_client.generate_command import add_generate
from wan_t2v_client.text_to_video import TextToVideo

CANNOT_WRITE = 6


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; failures end in one line on standard error and an exit code, never a traceback."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
        return code
    except ClientError as error:
        return _failed(str(error), error.exit_code)
    except OSError as error:
        where = error.filename or getattr(options, "out", "standard output")
        return _failed(f"{where}: {error.strerror}", CANNOT_WRITE)
    except KeyboardInterrupt:
        return _failed("stopped", 130)


def _failed(message: str, code: int) -> int:
    print(f"wan-t2v: {message}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="wan-t2v", description="Make videos from text on a Triton server.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_generate(commands)
    add_batch(commands)
    models = commands.add_parser("models", help="the server's models and how often each ran")
    models.set_defaults(run=_models)
    add_connection_options(models)
    return parser


def _models(options: argparse.Namespace) -> int:
    with TextToVideo(connection_from(options)) as server:
        for model in server.models(deadline_s=options.deadline_s):
            print("{name:20} version {version:3} {requests:6} requests {executions:6} executions".format(**model))
    return 0


if __name__ == "__main__":
    sys.exit(main())
