"""Objects of a channel by id and by field: reading, setting fields, queries, relations.

What lives here: what needs no voxels. How objects come and go with theirs: ``object_writes.py``.
"""

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

import numpy as np

from ndcass.errors import InvalidRequest, Malformed, NotFound, TooLarge
from ndcass.model import Channel
from ndcass.ramon import (
    DERIVED,
    FIELD_OF_KEY,
    ID_KEY,
    TYPE_KEY,
    Kind,
    ObjectType,
    RamonObject,
    checked_pairs,
    field_named,
    flat_value,
    from_stored,
)
from ndcass.ramon_text import field_text, parse_field, parse_number
from ndcass.store.base import Comparison, Predicate, StoredObject, Stores
from ndcass.writer import check_writable

# Ids of one answer; a query without a bound has at most so many hits.
MAX_HITS = 1 << 20
# Objects of one request, and those that are looked at together.
MAX_OBJECTS = 1 << 16
OBJECTS_AT_ONCE = 1000

# What names a comparison in a query.
COMPARISONS = {"lt": Comparison.LESS, "gt": Comparison.GREATER}
_NAMES = {"type": TYPE_KEY, "status": "ann_status", "confidence": "ann_confidence"}
_COMPARED = "confidence"
_LIMIT = "limit"


def check_annotation(channel: Channel) -> None:
    """InvalidRequest if a channel has no objects."""
    if not channel.is_annotation:
        raise InvalidRequest(f"channel {channel.channel_name} is no annotation channel")


def max_id(channel: Channel) -> int:
    """The greatest id that the voxels of a channel can hold."""
    return int(np.iinfo(channel.dtype).max)


# -- reading


async def read_objects(stores: Stores, channel: Channel, ids: Sequence[int]) -> list[RamonObject]:
    """Some objects, each once, in the order of their first mention.

    Raises
    ------
    NotFound
        If one of them does not exist.
    TooLarge
        If they are more than one request may name.
    """
    check_annotation(channel)
    wanted = list(dict.fromkeys(ids))
    if len(wanted) > MAX_OBJECTS:
        raise TooLarge("objects", asked=len(wanted), limit=MAX_OBJECTS, unit="objects")
    found = await stores.objects.get(channel.id, wanted)
    missing = set(wanted) - {item.id for item in found}
    if missing:
        raise NotFound(f"there is no object {min(missing)} in channel {channel.channel_name}")
    return [as_object(item) for item in found]


async def read_object(stores: Stores, channel: Channel, object_id: int) -> RamonObject:
    """One object; NotFound if there is none."""
    return (await read_objects(stores, channel, [object_id]))[0]


def as_object(stored: StoredObject) -> RamonObject:
    """An object as it comes from the store."""
    return from_stored(stored.id, stored.fields)


async def labels_of(stores: Stores, channel: Channel, item: RamonObject) -> list[int]:
    """Whose voxels an object shows: its own, or a neuron those of its segments.

    Raises
    ------
    InvalidRequest
        If it is a seed, which has none.
    """
    if item.type is ObjectType.SEED:
        raise InvalidRequest(f"object {item.id} is a seed: it has no voxels")
    if item.type is not ObjectType.NEURON:
        return [item.id]
    return await related(stores, channel, item, "segments")


async def related(stores: Stores, channel: Channel, item: RamonObject, name: str) -> list[int]:
    """A derived list of an object: who links to it, ascending."""
    found: set[int] = set()
    for key in DERIVED[item.type][name]:
        predicate = Predicate(key, Comparison.EQUAL, item.id)
        found.update(await _hits(stores, channel, [predicate]))
    return sorted(found)


async def relations(
    stores: Stores, channel: Channel, item: RamonObject
) -> dict[str, Sequence[int]]:
    """All derived lists of an object, by name."""
    names = DERIVED.get(item.type, {})
    return {name: await related(stores, channel, item, name) for name in names}


# -- fields by name


async def read_field(stores: Stores, channel: Channel, object_id: int, name: str) -> str:
    """A field, a derived list or the value of a pair, as a text.

    Raises
    ------
    NotFound
        If there is no such object, or it has no such field.
    """
    item = await read_object(stores, channel, object_id)
    if name in ("type", TYPE_KEY):
        return str(int(item.type))
    if name in ("annid", ID_KEY):
        return str(item.id)
    if name in DERIVED.get(item.type, {}):
        return ",".join(map(str, await related(stores, channel, item, name)))
    field = field_named(item.type, name)
    if field is not None:
        return field_text(item.fields[field.key])
    if name not in item.pairs:
        raise NotFound(f"object {object_id} has no field {name[:80]}")
    return ",".join(item.pairs[name])


async def set_field(stores: Stores, channel: Channel, object_id: int, name: str, text: str) -> None:
    """Set one field and leave the others, also those that somebody else sets at the same time.

    Raises
    ------
    ReadOnly
        If nothing may be written to the channel.
    NotFound
        If there is no such object.
    InvalidRequest
        If the field cannot be set, or has another number of values.
    Malformed
        If it cannot have that value.
    """
    check_writable(channel)
    item = await read_object(stores, channel, object_id)
    if name in DERIVED.get(item.type, {}) or name in ("type", TYPE_KEY, "annid", ID_KEY):
        raise InvalidRequest(f"{name} of object {object_id} follows from others: it cannot be set")
    field = field_named(item.type, name)
    if field is not None:
        change = {field.key: flat_value(field, parse_field(field, text))}
    else:
        change = {key: values[0] for key, values in checked_pairs({name: [text]}).items()}
    if not await stores.objects.change(channel.id, object_id, change):
        raise NotFound(f"there is no object {object_id} in channel {channel.channel_name}")


# -- queries


class Query(NamedTuple):
    """What objects are asked for."""

    predicates: Sequence[Predicate]
    limit: int | None = None


def parse_query(words: Sequence[str]) -> Query:
    """A query as its URL has it: ``type/2``, ``confidence/lt/0.5``, ``limit/9``, ``key/value``.

    Raises
    ------
    Malformed
        If a word is missing, an operator is unknown, or a value cannot be one of its field.
    """
    predicates: list[Predicate] = []
    limit = None
    rest = iter(words)
    for name in rest:
        word = next(rest, None)
        if word is None:
            raise Malformed(f"{name[:80]} in a query has no value")
        if name == _LIMIT:
            limit = _limit(word)
        elif name == _COMPARED:
            bound = next(rest, None)
            if word not in COMPARISONS or bound is None:
                raise Malformed(f"confidence is compared as {'|'.join(COMPARISONS)}/number")
            number = parse_number(bound, _COMPARED)
            predicates.append(Predicate(_NAMES[_COMPARED], COMPARISONS[word], number))
        else:
            predicates.append(equality(_NAMES.get(name, name), word))
    return Query(predicates, limit)


def equality(key: str, text: str) -> Predicate:
    """A predicate on a stored key; Malformed if its field cannot have the value."""
    field = FIELD_OF_KEY.get(key)
    is_number = key in (TYPE_KEY, ID_KEY) or (
        field is not None and field.kind in (Kind.INT, Kind.ID, Kind.FLOAT, Kind.IDS)
    )
    value = parse_number(text, key) if is_number else text
    return Predicate(key, Comparison.EQUAL, value)


def _limit(word: str) -> int:
    number = parse_number(word, _LIMIT)
    if not isinstance(number, int) or number < 0:
        raise Malformed(f"limit/{word[:80]} is no number of ids")
    return number


async def find_objects(stores: Stores, channel: Channel, query: Query) -> Sequence[int]:
    """The ids of all objects that are asked for, ascending.

    Raises
    ------
    TooLarge
        If they are more than one answer has.
    """
    check_annotation(channel)
    return await _hits(stores, channel, query.predicates, query.limit)


async def _hits(
    stores: Stores,
    channel: Channel,
    predicates: Sequence[Predicate],
    limit: int | None = None,
) -> Sequence[int]:
    most = MAX_HITS + 1 if limit is None else min(limit, MAX_HITS + 1)
    hits = await stores.objects.query(channel.id, predicates, limit=most)
    if len(hits) > MAX_HITS:
        raise TooLarge("hits of a query", asked=len(hits), limit=MAX_HITS, unit="hits")
    return hits


async def each_object(
    stores: Stores, channel: Channel, ids: Sequence[int]
) -> AsyncIterator[RamonObject]:
    """Some objects one by one, those that exist, in the order of `ids`."""
    for first in range(0, len(ids), OBJECTS_AT_ONCE):
        for stored in await stores.objects.get(channel.id, ids[first : first + OBJECTS_AT_ONCE]):
            yield as_object(stored)


async def frequent_keys(
    stores: Stores, channel: Channel, *, most: int, kind: int | None = None
) -> list[str]:
    """The stored keys that most values have, of all objects or those of a type; ties by name.

    An element of a list counts as a value.
    """
    predicates = [] if kind is None else [Predicate(TYPE_KEY, Comparison.EQUAL, kind)]
    ids = await find_objects(stores, channel, Query(predicates))
    counts: Counter[str] = Counter()
    for first in range(0, len(ids), OBJECTS_AT_ONCE):
        for stored in await stores.objects.get(channel.id, ids[first : first + OBJECTS_AT_ONCE]):
            for key, value in stored.fields.items():
                counts[key] += len(value) if isinstance(value, list) else 1
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [key for key, _ in ranked[:most]]
