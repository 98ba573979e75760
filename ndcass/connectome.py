"""Which segments synapses join, in a box of a channel, as a graph (annotation plane 6.2)."""

from collections.abc import AsyncIterator, Iterator

from ndcass import annotation
from ndcass.errors import NotFound
from ndcass.geometry import Box
from ndcass.model import Channel, TokenView
from ndcass.objects import Query, check_annotation, each_object, equality, find_objects
from ndcass.ramon import TYPE_KEY, ObjectType, RamonObject
from ndcass.store.base import Stores

Edge = tuple[int, int]


async def synapse_edges(
    stores: Stores, view: TokenView, channel: Channel, box: Box | None
) -> list[Edge]:
    """The pairs of segments that have a synapse in a box (stored), each once, ascending.

    Labels without an object, and objects that are no synapses, count for nothing. Without a box it
    is the whole channel, of which only the voxels of synapses are looked at.

    Raises
    ------
    NotFound
        If there is no label at all.
    """
    check_annotation(channel)
    level = min(channel.resolution, view.dataset.scalinglevels)
    edges: set[Edge] = set()
    if box is None:
        async for item in _synapses(stores, view, channel, level):
            edges.update(partners(item))
        if not edges and not await _has_cuboids(stores, channel, level):
            raise NotFound(f"there is no label in channel {channel.channel_name}")
        return sorted(edges)
    labels = await annotation.labels_in_box(stores, view, channel, level, box)
    if not len(labels):
        raise NotFound("there is no label in that box")
    async for item in each_object(stores, channel, labels.tolist()):
        if item.type is ObjectType.SYNAPSE:
            edges.update(partners(item))
    return sorted(edges)


async def _synapses(
    stores: Stores, view: TokenView, channel: Channel, level: int
) -> AsyncIterator[RamonObject]:
    """The synapses of a channel that have a voxel."""
    kind = equality(TYPE_KEY, str(int(ObjectType.SYNAPSE)))
    ids = await find_objects(stores, channel, Query([kind]))
    async for item in each_object(stores, channel, ids):
        if await annotation.object_box(stores, view, channel, [item.id], level) is not None:
            yield item


async def _has_cuboids(stores: Stores, channel: Channel, level: int) -> bool:
    async for _ in stores.cuboids.scan(channel.id, level=level):
        return True
    return False


def partners(synapse: RamonObject) -> Iterator[tuple[int, int]]:
    """The pairs of segments that a synapse joins, each once, the smaller first (annotation 6.2)."""

    def of(key: str) -> tuple[int, ...]:
        value = synapse.fields[key]
        return tuple(int(item) for item in value) if isinstance(value, tuple) else ()

    segments = sorted(set(of("syn_segments")))
    if segments:
        pairs = {(a, b) for i, a in enumerate(segments) for b in segments[i + 1 :]}
    else:
        pre, post = of("syn_presegments"), of("syn_postsegments")
        pairs = {(min(a, b), max(a, b)) for a in pre for b in post}
    yield from sorted(pairs)
