"""Skeletons and their nodes as objects of a channel, out of SWC files and into them."""

from collections.abc import Sequence

from ndcass.errors import InvalidRequest
from ndcass.model import ND_VERSION, SCHEMA_VERSION, Channel, TokenView
from ndcass.objects import (
    Query,
    check_annotation,
    each_object,
    equality,
    find_objects,
    max_id,
    read_objects,
    related,
)
from ndcass.ramon import (
    ID_KEY,
    TYPE_KEY,
    ObjectType,
    RamonObject,
    make_object,
    stored_fields,
)
from ndcass.store.base import StoredObject, Stores
from ndcass.swc import ROOT, SwcFile, SwcNode, swc_text
from ndcass.writer import check_writable

_NO_LOCATION = (0.0, 0.0, 0.0)


async def create_skeletons(stores: Stores, channel: Channel, swc: SwcFile) -> list[int]:
    """Make a skeleton a root, and an object a node, together; the ids of the skeletons.

    Raises
    ------
    ReadOnly
        If nothing may be written to the channel.
    Conflict
        If the channel has not enough ids left.
    """
    check_annotation(channel)
    check_writable(channel)
    roots = sum(node.parent == ROOT for node in swc.nodes)
    count = len(swc.nodes) + roots
    first = await stores.catalog.reserve_ids(channel.id, count, most=max_id(channel))
    made = objects_of(swc, first)
    await stores.objects.claim(channel.id, range(first, first + count))
    await stores.objects.put(
        channel.id, [StoredObject(item.id, stored_fields(item)) for item in made]
    )
    return [item.id for item in made if item.type is ObjectType.SKELETON]


def objects_of(swc: SwcFile, first_id: int) -> list[RamonObject]:
    """The objects of a file; the id of a skeleton comes directly before that of its root."""
    pairs = {str(number): (line,) for number, line in enumerate(swc.comments)}
    next_id = first_id
    id_of: dict[int, int] = {}
    skeleton_of: dict[int, int] = {}
    made: list[RamonObject] = []
    for node in swc.nodes:
        if node.parent == ROOT:
            skeleton, next_id = next_id, next_id + 1
            values: dict[str, object] = {"skel_rootnode": next_id}
            made.append(make_object(skeleton, ObjectType.SKELETON, values, pairs))
        else:
            skeleton = skeleton_of[node.parent]
        id_of[node.number], skeleton_of[node.number] = next_id, skeleton
        values = {
            "node_type": node.kind,
            "node_location": node.location_xyz,
            "node_radius": node.radius,
            "node_parent": ROOT if node.parent == ROOT else id_of[node.parent],
            "node_skeleton": skeleton,
        }
        made.append(make_object(next_id, ObjectType.NODE, values))
        next_id += 1
    return made


async def skeletons_text(
    stores: Stores, view: TokenView, channel: Channel, ids: Sequence[int] | None
) -> str:
    """Some skeletons, or all of a channel, as one file.

    Raises
    ------
    NotFound
        If there is no such object.
    InvalidRequest
        If it is no skeleton.
    """
    if ids is None:
        kind = str(int(ObjectType.SKELETON))
        ids = await find_objects(stores, channel, Query([equality(TYPE_KEY, kind)]))
    skeletons = await read_objects(stores, channel, ids)
    nodes: list[SwcNode] = []
    for skeleton in skeletons:
        if skeleton.type is not ObjectType.SKELETON:
            raise InvalidRequest(f"object {skeleton.id} is no skeleton")
        node_ids = await related(stores, channel, skeleton, "nodes")
        nodes += [
            _swc_node(item)
            async for item in each_object(stores, channel, node_ids)
            if item.type is ObjectType.NODE
        ]
    header = [
        f"# ND (NeuroData) Version {ND_VERSION} Schema {SCHEMA_VERSION}",
        f"# Project {view.project.project_name} Channel {channel.channel_name}",
    ]
    if skeletons:
        header += _header(skeletons[0])
    return swc_text(header, sorted(nodes, key=lambda node: node.number))


def _header(skeleton: RamonObject) -> list[str]:
    """The stored keys of a skeleton; comments of the file it came from as they were."""
    lines = []
    for key, value in stored_fields(skeleton).items():
        comment = isinstance(value, str) and key.isdigit() and value.startswith("#")
        if key != ID_KEY:
            lines.append(value if comment else f"# {key} {value}")
    return lines


def _swc_node(item: RamonObject) -> SwcNode:
    location = item.fields["node_location"] or _NO_LOCATION
    kind, parent, radius = (item.fields[k] for k in ("node_type", "node_parent", "node_radius"))
    assert isinstance(location, tuple)  # of this type, as are the others
    assert isinstance(kind, int)
    assert isinstance(parent, int)
    assert isinstance(radius, float)
    x, y, z = location
    return SwcNode(item.id, kind, (x, y, z), radius, parent)
