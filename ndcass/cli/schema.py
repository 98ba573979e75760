"""``ndcass schema``: the tables of a store on Cassandra."""

import argparse
import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ndcass.cli.arguments import add_json
from ndcass.cli.failure import WrongCall
from ndcass.cli.report import print_result
from ndcass.config import CassandraSettings, load

if TYPE_CHECKING:
    from ndcass.store.cassandra.schema import Step

NOT_AS_NEEDED = 1


def add_parser(groups: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the commands."""
    group = groups.add_parser("schema", help="the tables of a store on Cassandra")
    actions = group.add_subparsers(title="actions", metavar="ACTION", required=True)
    status = actions.add_parser(
        "status",
        help="which files of the schema are applied",
        description="Prints what became of every file of the schema. The exit code is 0 if the "
        "schema is the one that this ndcass needs, and 1 if not.",
    )
    status.set_defaults(run=_status)
    apply = actions.add_parser(
        "apply",
        help="make the keyspaces and apply what is pending",
        description="May be run again, and at the same time elsewhere: they take turns.",
    )
    apply.set_defaults(run=_apply)
    for parser in (status, apply):
        parser.add_argument(
            "--conf",
            type=Path,
            metavar="FILE",
            required=True,
            help="settings of the gateway, with the engine cassandra; see conf/README.md",
        )
        add_json(parser)


def _settings(args: argparse.Namespace) -> CassandraSettings:
    settings = load(args.conf, os.environ)
    if settings.store.engine != "cassandra":
        raise WrongCall(f"{args.conf} has the engine {settings.store.engine}, which has no schema")
    return settings.cassandra


def _status(args: argparse.Namespace) -> int:
    # Here and below: the other commands start quicker without the driver.
    from ndcass.store.cassandra import connected, keyspaces_of
    from ndcass.store.cassandra.schema import State, schema_status

    settings = _settings(args)

    async def status() -> "list[Step]":
        async with connected(settings) as driver:
            return await schema_status(driver, keyspaces_of(settings))

    steps = asyncio.run(status())
    print_result(args, {"files": _as_json(steps)}, "\n".join(map(_line, steps)))
    return 0 if all(step.state is State.APPLIED for step in steps) else NOT_AS_NEEDED


def _apply(args: argparse.Namespace) -> int:
    from ndcass.store.cassandra import connected, keyspaces_of
    from ndcass.store.cassandra.schema import apply_schema

    settings = _settings(args)

    def report(line: str) -> None:
        if not args.json:
            print(line, flush=True)

    async def apply() -> "list[Step]":
        async with connected(settings) as driver:
            return await apply_schema(driver, keyspaces_of(settings), report=report)

    done = asyncio.run(apply())
    print_result(args, {"applied": _as_json(done)}, f"{len(done)} files applied")
    return 0


def _as_json(steps: "list[Step]") -> list[dict[str, str]]:
    return [{"keyspace": s.keyspace, "file": s.name, "state": s.state.value} for s in steps]


def _line(step: "Step") -> str:
    return f"{step.state.value}\t{step.keyspace}\t{step.name}"
