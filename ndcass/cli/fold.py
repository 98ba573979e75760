"""``ndcass fold`` and ``ndcass drain``: many writes become few rows; then what is where is said."""

import argparse
import asyncio
import dataclasses
import os
import time
from collections.abc import Sequence
from typing import Any

from ndcass.cli import arguments
from ndcass.cli.arguments import Target
from ndcass.cli.failure import CommandFailed, WrongCall
from ndcass.cli.local_job import OPEN_STATES, POLL_S, carry_out
from ndcass.cli.report import print_result
from ndcass.cli.store import add_conf, existing_store
from ndcass.config import load
from ndcass.jobs.fold import fold_channel, folding_of
from ndcass.model import Channel
from ndcass.store.base import Job, Stores
from ndcass.store.folding import FOLD_JOB, Amount, Whereabouts

# The longest that ``--wait`` sleeps before it looks again.
LONGEST_WAIT_S = 5.0
MIB = 1 << 20


def add_parser(groups: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the commands."""
    fold = groups.add_parser(
        "fold",
        help="fold the cuboids of a channel that have many writes",
        description="Merge the writes of cuboids that have more than a few into one row each. "
        "Readers and writers notice nothing. A gateway does so by itself.",
    )
    drain = groups.add_parser(
        "drain",
        help="move all writes of a channel to the archive",
        description="Fold every cuboid of a channel, whatever its number of writes: with two tiers "
        "all of it is in the archive then. What was written within the write window is left.",
    )
    for parser, is_drain in ((fold, False), (drain, True)):
        parser.add_argument("channels", nargs="*", metavar="PROJECT/CHANNEL", type=arguments.target)
        parser.add_argument("--all", action="store_true", help="every channel of the store")
        add_conf(parser)
        parser.add_argument(
            "--wait",
            action="store_true",
            help="go on until nothing is left to fold and to sweep, which takes the windows of the "
            "settings; for ever if somebody writes all the time",
        )
        parser.add_argument("--quiet", action="store_true", help="no progress bar")
        arguments.add_json(parser)
        parser.set_defaults(run=run, drain=is_drain)


def run(args: argparse.Namespace) -> int:
    """Carry out the command."""
    if args.all == bool(args.channels):
        raise WrongCall("name channels as PROJECT/CHANNEL, or --all of them")
    asyncio.run(_run(args))
    return 0


async def _run(args: argparse.Namespace) -> None:
    async with existing_store(load(args.conf, os.environ)) as stores:
        folding_of(stores)  # refused at once
        channels = await _channels(stores, args.channels)
        results: list[dict[str, Any]] = []  # as JSON has it
        for channel in channels:
            job, where = await _fold(stores, channel, args)
            if args.wait:
                job, where = await _wait(stores, channel, args, job, where)
            name = f"{channel.project}/{channel.name}"
            results.append(_result(name, job, where))
            if not args.json:
                print(statement(name, where))
    if args.json:
        print_result(args, {"channels": results}, "")


async def _channels(stores: Stores, named: Sequence[Target]) -> list[Channel]:
    """Those that were named, or all, before anything is done to one of them."""
    if named:
        return [await stores.catalog.channel(target.token, target.channel) for target in named]
    return [
        channel
        for project in await stores.catalog.projects()
        for channel in await stores.catalog.channels(project.name)
    ]


async def _fold(
    stores: Stores, channel: Channel, args: argparse.Namespace
) -> tuple[Job, Whereabouts]:
    """Have a job done, here or by whichever gateway takes it first."""
    job = await _job(stores, channel.id, drain=args.drain)
    what = f"{'drain' if args.drain else 'fold'} {channel.project}/{channel.name}"
    job = await carry_out(
        stores, job, {FOLD_JOB: fold_channel}, what, unit="buckets", quiet=args.quiet
    )
    return job, await folding_of(stores).whereabouts(channel.id)


async def _job(stores: Stores, channel_id: int, *, drain: bool) -> Job:
    """One that nobody has finished, which then goes on where it was; else a new one."""
    for job in await stores.jobs.jobs(channel_id=channel_id):
        if (
            job.kind == FOLD_JOB
            and job.state in OPEN_STATES
            and bool(job.detail.get("drain")) == drain
        ):
            return job
    return await stores.jobs.submit(FOLD_JOB, channel_id, {"drain": drain})


async def _wait(
    stores: Stores, channel: Channel, args: argparse.Namespace, job: Job, where: Whereabouts
) -> tuple[Job, Whereabouts]:
    """Go on until nothing is left that this command would do."""
    folding = folding_of(stores)
    while where.to_sweep.rows or (args.drain and where.unfolded.rows):
        dues = [due for due in (where.foldable_from_s, where.sweep_from_s) if due]
        wait_s = min(dues, default=0.0) - time.time()
        await asyncio.sleep(min(max(wait_s, POLL_S), LONGEST_WAIT_S))
        await folding.step()
        if args.drain and where.unfolded.rows and where.foldable_from_s <= time.time():
            before = where.unfolded
            job, where = await _fold(stores, channel, args)
            if where.unfolded == before and where.foldable_from_s <= time.time():
                raise CommandFailed(
                    f"{channel.project}/{channel.name}: {before.rows} rows stay where they are; "
                    "the log says which of them are damaged"
                )
        else:
            where = await folding.whereabouts(channel.id)
    return job, where


# -- what is said at the end


def statement(name: str, where: Whereabouts) -> str:
    """What of a channel is where, for people."""
    lines = [f"{name}:"]
    labels = (
        ("in ingest, not drained yet", "in the archive", "drained, still to be swept")
        if where.has_tiers
        else ("writes not folded", "folded", "folded, still to be swept")
    )
    dues = (
        _due("can be drained" if where.has_tiers else "can be folded", where.foldable_from_s),
        "",
        _due("can be swept", where.sweep_from_s),
    )
    for label, amount, due in zip(
        labels, (where.unfolded, where.folded, where.to_sweep), dues, strict=True
    ):
        lines.append(f"  {label + ':':<29}{_amount(amount)}{due}")
    return "\n".join(lines)


def _amount(amount: Amount) -> str:
    return f"{amount.cuboids} cuboids, {amount.rows} rows, {amount.size_bytes / MIB:.1f} MiB"


def _due(what: str, from_s: float) -> str:
    if not from_s:
        return ""
    if from_s <= time.time():
        return f"; {what} now"
    return f"; {what} from {time.strftime('%H:%M:%S', time.localtime(from_s))} on"


def _result(name: str, job: Job, where: Whereabouts) -> dict[str, Any]:
    """The same for programs; `Any` is what JSON can hold."""
    done = {key: job.detail.get(key, 0) for key in ("cuboids", "rows", "size_bytes")}
    return {"channel": name, "job": job.id, "done": done, "where": dataclasses.asdict(where)}
