"""``ndcass``: parse, hand over to a command, turn its end into an exit code.

0 done, 1 failed (the reason in one line on standard error), 2 wrong call.
"""

import argparse
import importlib.metadata
import sys
from collections.abc import Sequence
from typing import Any

from ndcass.cli import (
    cluster,
    cutout,
    fold,
    index,
    ingest,
    jobs,
    nodetool,
    objects,
    schema,
    serve,
    user,
    verify,
)
from ndcass.cli.failure import WrongCall
from ndcass.errors import NdcassError

DONE, FAILED, WRONG_CALL = 0, 1, 2


class Parser(argparse.ArgumentParser):
    """Takes options by their whole names: what an abbreviation means may change with a release."""

    def __init__(self, **settings: Any) -> None:  # whatever argparse takes
        super().__init__(**{"allow_abbrev": False, **settings})


def build_parser() -> argparse.ArgumentParser:
    """All commands and their arguments."""
    parser = Parser(prog="ndcass", description="Brain image volumes as cuboids, served over REST.")
    version = importlib.metadata.version("ndcass")
    parser.add_argument("--version", action="version", version=f"ndcass {version}")
    groups = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (
        serve,
        ingest,
        cutout,
        verify,
        user,
        jobs,
        index,
        objects,
        cluster,
        nodetool,
        schema,
        fold,
    ):
        command.add_parser(groups)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    parser = build_parser()
    args = parser.parse_args(argv)
    try:
        return int(args.run(args))
    except WrongCall as error:
        print(f"ndcass: {error}", file=sys.stderr)
        return WRONG_CALL
    except BrokenPipeError:  # whoever read the output has left, as `head` does
        sys.stderr.close()
        return FAILED
    except (NdcassError, OSError) as error:
        print(f"ndcass: {' '.join(str(error).split())}", file=sys.stderr)
    except KeyboardInterrupt:
        print("ndcass: interrupted", file=sys.stderr)
    return FAILED


if __name__ == "__main__":
    sys.exit(main())
