"""Whether an answer is as new as every acknowledged write: the header that says so."""

from collections.abc import Iterable, Sequence

from aiohttp import web

from ndcass.geometry import Box
from ndcass.place import Place
from ndcass.propagation import is_fresh
from ndcass.server.app_keys import STORES
from ndcass.server.cutout import Cutout
from ndcass.server.exchange import exchange_of


async def note_cutout(request: web.Request, cutout: Cutout) -> None:
    """Have the answer say whether the boxes of a request are fresh; see `note_boxes`."""
    boxes = [(place, cutout.times, cutout.box) for place in cutout.places if place is not None]
    await note_boxes(request, boxes)


async def note_boxes(
    request: web.Request, boxes: Iterable[tuple[Place, Sequence[int | None], Box]]
) -> None:
    """Have the answer say whether some boxes are fresh, if any of them is of a derived level.

    Before the voxels are read: they are not older than what is said of them.
    """
    stores, exchange = request.app[STORES], exchange_of(request)
    for place, times, box in boxes:
        fresh = await is_fresh(stores, place, times, box)
        if fresh is not None:
            exchange.is_fresh = fresh and exchange.is_fresh is not False
