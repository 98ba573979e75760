"""``ndcass index``: the label index of a channel, compared with its voxels or made anew."""

import argparse
import asyncio
from typing import Any

from ndcass.cli import arguments
from ndcass.cli.failure import CommandFailed
from ndcass.cli.local_job import OPEN_STATES, carry_out
from ndcass.cli.report import print_result
from ndcass.cli.store import add_store, existing_store, settings_of
from ndcass.jobs.index import INDEX_JOB, index_channel
from ndcass.store.base import Job, Stores

_FIGURES = ("cuboids", "present", "missing", "entries", "dead", "dropped")


def add_parser(groups: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the commands."""
    group = groups.add_parser("index", help="the label index of an annotation channel")
    actions = group.add_subparsers(title="actions", metavar="ACTION", required=True)
    for name, text in (
        ("check", "compare the index with the voxels; fails if the index misses something"),
        ("rebuild", "make the index anew from the voxels, and drop what is dead"),
    ):
        parser = actions.add_parser(name, help=text)
        parser.add_argument("channel", metavar="TOKEN/CHANNEL", type=arguments.target)
        add_store(parser)
        parser.add_argument("--quiet", action="store_true", help="no progress bar")
        arguments.add_json(parser)
        parser.set_defaults(run=run, check=name == "check")


def run(args: argparse.Namespace) -> int:
    """Carry out the command; 1 if a check finds the index incomplete."""
    job = asyncio.run(_run(args))
    result: dict[str, Any] = {"job": job.id} | {name: job.detail[name] for name in _FIGURES}
    print_result(args, result, _statement(str(args.channel), result, check=args.check))
    return 1 if args.check and result["missing"] else 0


async def _run(args: argparse.Namespace) -> Job:
    async with existing_store(settings_of(args)) as stores:
        target = args.channel
        channel = (await stores.catalog.token_view(target.token)).channel(target.channel)
        if channel is None:
            raise CommandFailed(f"token {target.token} has no channel {target.channel}")
        job = await _job(stores, channel.id, check=args.check)
        what = f"{'check' if args.check else 'rebuild'} the index of {target}"
        handlers = {INDEX_JOB: index_channel}
        return await carry_out(stores, job, handlers, what, unit="cuboids", quiet=args.quiet)


async def _job(stores: Stores, channel_id: int, *, check: bool) -> Job:
    """One that nobody has finished, which then goes on where it was; else a new one."""
    for job in await stores.jobs.jobs(channel_id=channel_id):
        if job.kind == INDEX_JOB and job.state in OPEN_STATES and job.detail.get("check") == check:
            return job
    return await stores.jobs.submit(INDEX_JOB, channel_id, {"check": check})


def _statement(name: str, result: dict[str, Any], *, check: bool) -> str:
    """The figures for people; `Any` is what JSON can hold."""
    found = f"{name}: {result['present']} labels in {result['cuboids']} cuboids"
    if check:
        return f"{found}, {result['missing']} missing in the index, {result['dead']} dead entries"
    return f"{found}, {result['missing']} were missing, {result['dropped']} dead entries dropped"
