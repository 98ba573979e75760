"""``ndcass objects``: whether every object of a channel is whole."""

import argparse
import asyncio
import time
from typing import NamedTuple

from ndcass.cli import arguments
from ndcass.cli.arguments import add_json
from ndcass.cli.report import print_result
from ndcass.cli.store import add_store, existing_store, settings_of
from ndcass.errors import NotFound
from ndcass.objects import check_annotation
from ndcass.stray_labels import stray_labels
from ndcass.unfinished import ABANDONED_S, Note, notes_of, settle

# Labels without an object that are listed; all are counted.
MOST_LISTED = 1000


class _Found(NamedTuple):
    """What is under way, what was left behind, how many of those were settled, and strays.

    `strays` is None where nobody looked for them.
    """

    under_way: list[Note]
    left: list[Note]
    settled: int
    strays: set[int] | None


def add_parser(groups: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the commands."""
    group = groups.add_parser("objects", help="annotation objects")
    actions = group.add_subparsers(title="actions", metavar="ACTION", required=True)
    check = actions.add_parser("check", help="find objects that are not whole")
    check.add_argument("channel", metavar="TOKEN/CHANNEL", type=arguments.target)
    check.add_argument("--settle", action="store_true", help="finish or undo what is left behind")
    check.add_argument(
        "--voxels",
        action="store_true",
        help="look at the voxels, too: every label that is painted has to be an object",
    )
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
    """1 if something was left behind and is not settled, or voxels belong to no object."""
    found = asyncio.run(_checked(args))
    result: dict[str, object] = {
        "under_way": len(found.under_way),
        "left_behind": len(found.left),
        "settled": found.settled,
        "ids": sorted({object_id for note in found.left for object_id in note.ids}),
    }
    text = (
        f"{len(found.under_way)} changes of objects under way, {len(found.left)} left behind, "
        f"{found.settled} settled"
    )
    if found.strays is not None:
        result["strays"] = len(found.strays)
        result["stray_ids"] = sorted(found.strays)[:MOST_LISTED]
        text += f"; {len(found.strays)} labels have voxels and are no object"
    print_result(args, result, text)
    return 1 if found.strays or (found.left and not args.settle) else 0


async def _checked(args: argparse.Namespace) -> _Found:
    target = args.channel
    async with existing_store(settings_of(args)) as stores:
        view = await stores.catalog.token_view(target.token)
        channel = view.channel(target.channel)
        if channel is None:
            raise NotFound(f"token {target.token} has no channel {target.channel}")
        notes = await notes_of(stores, channel)
        before_s = time.time() - args.older_than
        left = [note for note in notes if note.made_s <= before_s]
        settled = 0
        if args.settle:
            settled = await settle(stores, channel, older_than_s=args.older_than)
        strays: set[int] | None = None
        if args.voxels:
            check_annotation(channel)
            noted = await notes_of(stores, channel)
            busy = frozenset(i for note in noted for i in (*note.ids, note.into))
            strays = set()
            async for page in stray_labels(stores, view, channel, but=busy):
                strays.update(page)
        return _Found([note for note in notes if note not in left], left, settled, strays)
