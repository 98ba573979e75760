"""``ndcass verify``: whether what is stored is what was sent, or at least undamaged."""

import argparse
import asyncio
import os
import threading
from pathlib import Path
from typing import NamedTuple

from ndcass.cli import arguments, receipt
from ndcass.cli.arguments import Target
from ndcass.cli.client import Gateway, Volume, access_from
from ndcass.cli.failure import CommandFailed, WrongCall
from ndcass.cli.ingest import box_done
from ndcass.cli.receipt import BoxDone, Receipt
from ndcass.cli.report import Progress, print_result
from ndcass.cli.store import add_store, existing_store, settings_of
from ndcass.concurrency import run_threads
from ndcass.config import Settings
from ndcass.store.base import CuboidAddress

# The reasons that are printed; the count tells of the others.
MOST_REASONS = 10


class Checked(NamedTuple):
    """How many were looked at, and what is wrong with some of them."""

    total: int
    wrong: list[str]


def add_parser(groups: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    parser = groups.add_parser(
        "verify",
        help="compare a channel with a receipt, or check its checksums",
        description="With the RECEIPT of an ingest: read every box back and compare checksum and "
        "counts. With TOKEN/CHANNEL and --data or --conf: check the checksums of all cuboids.",
    )
    parser.add_argument("what", metavar="RECEIPT|TOKEN/CHANNEL")
    add_store(parser, default=None)
    arguments.add_server(parser)
    arguments.add_transfer(parser)
    arguments.add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Carry out the command."""
    if args.data is None and args.conf is None:
        if not Path(args.what).exists() and _is_target(args.what):
            raise WrongCall(
                f"to check the store of {args.what} name its folder with --data, or its settings "
                "with --conf"
            )
        checked, what = _check_receipt(args), "boxes"
    elif _is_target(args.what):
        checked, what = (
            asyncio.run(_check_store(settings_of(args), arguments.target(args.what))),
            "cuboids",
        )
    else:
        raise WrongCall(f"with --data or --conf, {args.what} must be TOKEN/CHANNEL")
    result = {"checked": checked.total, "wrong": checked.wrong}
    if checked.wrong:
        if args.json:
            print_result(args, result, "")
        listed = "; ".join(checked.wrong[:MOST_REASONS])
        more = " ..." if len(checked.wrong) > MOST_REASONS else ""
        raise CommandFailed(
            f"{len(checked.wrong)} of {checked.total} {what} are wrong: {listed}{more}"
        )
    print_result(args, result, f"{checked.total} {what} of {args.what} are right")
    return 0


def _is_target(text: str) -> bool:
    try:
        arguments.target(text)
    except argparse.ArgumentTypeError:
        return False
    return True


def _check_receipt(args: argparse.Namespace) -> Checked:
    paper = receipt.load(Path(args.what))
    _refuse_unfinished(paper, args.what)
    destination = paper.destination
    with Gateway(access_from(args.url or destination.url, os.environ)) as gateway:
        volume = gateway.volume(Target(destination.token, destination.channel), destination.level)
        if volume.dtype.name != destination.dtype:
            raise CommandFailed(
                f"{volume.target} is {volume.dtype.name} now, it was {destination.dtype}"
            )
        return _compare(args, gateway, volume, paper)


def _compare(args: argparse.Namespace, gateway: Gateway, volume: Volume, paper: Receipt) -> Checked:
    wrong: list[str] = []
    itemsize = volume.dtype.itemsize
    with Progress("verify", paper.voxels * itemsize, quiet=args.quiet) as progress:

        def check(sent: BoxDone) -> None:
            found = box_done(sent.t, sent.as_box(), gateway.read_box(volume, sent.as_box(), sent.t))
            if found != sent:
                wrong.append(_difference(sent, found))
            progress.add(sent.voxels * itemsize)

        run_threads(check, paper.boxes, limit=args.parallel, stop=threading.Event())
    return Checked(len(paper.boxes), sorted(wrong))


def _refuse_unfinished(paper: Receipt, name: str) -> None:
    if not paper.is_complete:
        raise CommandFailed(
            f"{name} is of an ingest that did not end: {len(paper.boxes)} of {paper.boxes_total} "
            "boxes; finish it with `ndcass ingest --resume`"
        )


def _difference(sent: BoxDone, found: BoxDone) -> str:
    time = "" if sent.t is None else f" t {sent.t}"
    return (
        f"{sent.box}{time}: crc32c {found.crc32c} and {found.nonzero} non-zero voxels are stored, "
        f"{sent.crc32c} and {sent.nonzero} were sent"
    )


async def _check_store(settings: Settings, target: Target) -> Checked:
    count = 0
    wrong: list[str] = []
    async with existing_store(settings) as stores:
        view = await stores.catalog.token_view(target.token)
        channel = view.channel(target.channel)
        if channel is None:
            raise CommandFailed(f"token {target.token} has no channel {target.channel}")
        async for page in stores.cuboids.scan(channel.id):
            count += len(page)
            wrong += [_damage(*found) for found in await stores.cuboids.verify(page)]
    return Checked(count, wrong)


def _damage(address: CuboidAddress, reason: str) -> str:
    return f"{address}: {reason}"
