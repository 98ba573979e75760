"""Labels that have voxels although there is no object of that id: what a check looks for.

Where every label is to be an object, such voxels are half of one. In a channel that is painted as a
whole (a segmentation) most labels never were objects.
"""

from collections.abc import AsyncIterator, Sequence
from functools import partial

from ndcass.concurrency import bounded_map
from ndcass.label_voxels import is_painted
from ndcass.model import Channel, TokenView
from ndcass.place import Place
from ndcass.store.base import Stores

# Labels whose voxels are looked for at once.
LABELS_AT_ONCE = 16


async def stray_labels(
    stores: Stores, view: TokenView, channel: Channel, *, but: frozenset[int]
) -> AsyncIterator[Sequence[int]]:
    """Labels of the index without an object whose voxels are there, exceptions included, in pages.

    A label comes once for each level that has it. Those of `but` are passed over: objects that
    somebody is about to make or to delete.
    """
    for level in range(channel.resolution, view.dataset.scalinglevels + 1):
        place = Place(channel, view.level(level))
        async for labels in stores.labels.labels(channel.id, level):
            suspects = await _without_object(stores, channel, [i for i in labels if i not in but])
            painted = await bounded_map(
                partial(is_painted, stores, place), suspects, limit=LABELS_AT_ONCE
            )
            strays = [i for i, it_is in zip(suspects, painted, strict=True) if it_is]
            # An object may have been made since, and its voxels with it.
            yield await _without_object(stores, channel, strays)


async def _without_object(stores: Stores, channel: Channel, ids: Sequence[int]) -> list[int]:
    there = {item.id for item in await stores.objects.get(channel.id, ids)} if ids else set()
    return [object_id for object_id in ids if object_id not in there]
