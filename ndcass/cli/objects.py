"""``ndcass objects``: whether every object of a channel is whole."""

import argparse
import asyncio
import time
from typing import NamedTuple

from ndcass.cli.arguments import add_json
from ndcass.cli.failure import WrongCall
from ndcass.cli.report import print_result
from ndcass.cli.store import add_store, existing_store, settings_of
from ndcass.errors import NotFound
from ndcass.unfinished import ABANDONED_S, Note, notes_of, settle


class _Found(NamedTuple):
    """What is under way, what was left behind, and how many of those were settled."""

    under_way: list[Note]
    left: list[Note]
    settled: int


def add_parser(groups: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the commands."""
    group = groups.add_parser("objects", help="annotation objects")
    actions = group.add_subparsers(title="actions", metavar="ACTION", required=True)
    check = actions.add_parser("check", help="find changes of objects that a process left behind")
    check.add_argument("channel", metavar="TOKEN/CHANNEL")
    check.add_argument("--settle", action="store_true", help="finish or undo what is left behind")
    check.add_argument(
        "--older-than",
        type=float,
        default=ABANDONED_S,
        metavar="SECONDS",
        help="what counts as left behind (default: %(default)g; a running server's own changes "
        "must be younger)",
    )
    add_store(check)
    add_json(check)
    check.set_defaults(run=_check)


def _check(args: argparse.Namespace) -> int:
    """1 if something was left behind and is not settled."""
    found = asyncio.run(_checked(args))
    counts = {
        "under_way": len(found.under_way),
        "left_behind": len(found.left),
        "settled": found.settled,
        "ids": sorted({object_id for note in found.left for object_id in note.ids}),
    }
    text = (
        f"{counts['under_way']} changes of objects under way, {counts['left_behind']} left behind, "
        f"{counts['settled']} settled"
    )
    print_result(args, counts, text)
    return 1 if found.left and not args.settle else 0


async def _checked(args: argparse.Namespace) -> _Found:
    token, slash, name = args.channel.partition("/")
    if not slash:
        raise WrongCall(f"{args.channel!r} is not TOKEN/CHANNEL")
    async with existing_store(settings_of(args)) as stores:
        channel = (await stores.catalog.token_view(token)).channel(name)
        if channel is None:
            raise NotFound(f"token {token} has no channel {name}")
        notes = await notes_of(stores, channel)
        before_s = time.time() - args.older_than
        left = [note for note in notes if note.made_s <= before_s]
        settled = 0
        if args.settle:
            settled = await settle(stores, channel, older_than_s=args.older_than)
        return _Found([note for note in notes if note not in left], left, settled)
