"""``ndcass schema``: the tables of a store on Cassandra."""

import argparse
import asyncio
import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ndcass.cli.arguments import add_json
from ndcass.cli.failure import WrongCall
from ndcass.cli.report import print_result
from ndcass.config import CassandraSettings, load

if TYPE_CHECKING:
    from ndcass.store.cassandra.schema import Step
    from ndcass.store.cassandra.tiers import Windows

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
    windows = actions.add_parser(
        "windows",
        help="the windows that all gateways of the store keep to",
        description="Prints the windows (cassandra.max_clock_skew_ms, write_window_s and "
        "read_window_s) of whoever opened the store first. A gateway or command with other "
        "settings is refused.",
    )
    windows.add_argument(
        "--change", action="store_true", help="let those of the settings be kept to from now on"
    )
    windows.add_argument(
        "--gateways-stopped",
        action="store_true",
        help="say that every gateway (`ndcass serve`) of the store is stopped: without it nothing "
        "is changed",
    )
    windows.set_defaults(run=_windows)
    for parser in (status, apply, windows):
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


def _windows(args: argparse.Namespace) -> int:
    from ndcass.store.cassandra import connected, keyspaces_of, meta_tables, windows_of
    from ndcass.store.cassandra.agreement import agreed_windows, change_windows
    from ndcass.store.cassandra.schema import check_schema

    if args.change and not args.gateways_stopped:
        raise WrongCall(
            "running gateways rely on the windows: stop every `ndcass serve` of this store, then "
            "say --gateways-stopped"
        )
    settings = _settings(args)

    async def windows() -> "Windows | None":
        async with connected(settings) as driver:
            await check_schema(driver, keyspaces_of(settings))
            tables = meta_tables(driver, settings)
            if args.change:
                await change_windows(tables, windows_of(settings))
            return await agreed_windows(tables)

    found = asyncio.run(windows())
    if found is None:
        print_result(args, {}, "nobody has opened the store yet")
    else:
        said = dataclasses.asdict(found)
        print_result(args, said, "\n".join(f"{name}\t{value:g}" for name, value in said.items()))
    return 0


def _as_json(steps: "list[Step]") -> list[dict[str, str]]:
    return [{"keyspace": s.keyspace, "file": s.name, "state": s.state.value} for s in steps]


def _line(step: "Step") -> str:
    return f"{step.state.value}\t{step.keyspace}\t{step.name}"
