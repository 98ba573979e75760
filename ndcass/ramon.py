"""Annotation objects: their types, and the fields of each.

What lives here: one table of all fields, objects made of what clients send, checked once, and back.
What does not: values as texts (``ramon_text.py``), files and URLs (``server/formats``), voxels
(``annotation.py``) and the stores.

An object has the fields of its type, each under its *stored key* (``syn_weight``), which is also
its key in JSON and in queries; clients set and get it by its *name* (``weight``). Every other name
is a key of a pair, whose values are texts.
"""

import enum
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ndcass.errors import InvalidRequest, Malformed, TooLarge

# The greatest id of any channel; how many bits its voxels have is the channel's affair.
MAX_ID = (1 << 64) - 1
# What the columns of the original took.
MIN_INT, MAX_INT = -(1 << 31), (1 << 32) - 1
MAX_KEY_CHARACTERS = 255
MAX_VALUE_CHARACTERS = 20_000
# All fields of one object as JSON: what a store takes in one cell.
MAX_OBJECT_BYTES = 512 << 10
# Longer texts are no numbers; reading them would take time.
MAX_NUMBER_CHARACTERS = 400
SHOWN_CHARACTERS = 80

ID_KEY = "ann_id"
TYPE_KEY = "ann_type"
AXES = 3

# Flow directions in the second column of old lists of segments: pre, post, both.
_PRE, _POST = (1, 3), (2, 3)


class ObjectType(enum.IntEnum):
    """What an object is, by its code."""

    GENERIC = 1
    SYNAPSE = 2
    SEED = 3
    SEGMENT = 4
    NEURON = 5
    ORGANELLE = 6
    NODE = 7
    SKELETON = 8
    ROI = 9

    @property
    def has_voxels(self) -> bool:
        """Whether it may have voxels of its own."""
        return self not in (ObjectType.SEED, ObjectType.NEURON)


class Kind(enum.Enum):
    """What the values of a field are."""

    INT = "a whole number"
    ID = "an id"
    FLOAT = "a number"
    TEXT = "a text"
    IDS = "a list of ids"
    VOXEL = "three whole numbers from 0 on"
    POINT = "three numbers"


# What a field holds: a number, a text, or a tuple of numbers.
Value = int | float | str | tuple[int | float, ...]


@dataclass(frozen=True, slots=True)
class Field:
    """A field of some type: how clients, stores and HDF5 files call it, and what it holds."""

    name: str
    key: str
    hdf5: str | None
    kind: Kind

    @property
    def default(self) -> Value:
        if self.kind in (Kind.INT, Kind.ID):
            return 0
        if self.kind is Kind.FLOAT:
            return 0.0
        return "" if self.kind is Kind.TEXT else ()


COMMON = (
    Field("status", "ann_status", "STATUS", Kind.INT),
    Field("confidence", "ann_confidence", "CONFIDENCE", Kind.FLOAT),
    Field("author", "ann_author", "AUTHOR", Kind.TEXT),
)
OWN: Mapping[ObjectType, tuple[Field, ...]] = {
    ObjectType.GENERIC: (),
    ObjectType.SYNAPSE: (
        Field("weight", "syn_weight", "WEIGHT", Kind.FLOAT),
        Field("synapse_type", "syn_type", "SYNAPSE_TYPE", Kind.INT),
        Field("seeds", "syn_seeds", "SEEDS", Kind.IDS),
        Field("segments", "syn_segments", "SEGMENTS", Kind.IDS),
        Field("presegments", "syn_presegments", "PRESEGMENTS", Kind.IDS),
        Field("postsegments", "syn_postsegments", "POSTSEGMENTS", Kind.IDS),
        Field("centroid", "syn_centroid", "CENTROID", Kind.VOXEL),
    ),
    ObjectType.SEED: (
        Field("parent", "seed_parent", "PARENT", Kind.ID),
        Field("position", "seed_position", "POSITION", Kind.VOXEL),
        Field("cubelocation", "seed_cubelocation", "CUBE_LOCATION", Kind.INT),
        Field("source", "seed_source", "SOURCE", Kind.ID),
    ),
    ObjectType.SEGMENT: (
        Field("segmentclass", "seg_class", "SEGMENTCLASS", Kind.INT),
        Field("parentseed", "seg_parentseed", "PARENTSEED", Kind.ID),
        Field("neuron", "seg_neuron", "NEURON", Kind.ID),
    ),
    ObjectType.NEURON: (),
    ObjectType.ORGANELLE: (
        Field("organelleclass", "org_class", "ORGANELLECLASS", Kind.INT),
        Field("segment", "org_segment", "SEGMENT", Kind.ID),
        Field("parentseed", "org_parentseed", "PARENTSEED", Kind.ID),
        Field("seeds", "org_seeds", "SEEDS", Kind.IDS),
        Field("centroid", "org_centroid", "CENTROID", Kind.VOXEL),
    ),
    ObjectType.NODE: (
        Field("nodetype", "node_type", "NODETYPE", Kind.INT),
        Field("skeleton", "node_skeleton", "SKELETONID", Kind.ID),
        # -1 is the parent of a root.
        Field("parent", "node_parent", "PARENTID", Kind.INT),
        Field("radius", "node_radius", "RADIUS", Kind.FLOAT),
        Field("location", "node_location", "LOCATION", Kind.POINT),
    ),
    ObjectType.SKELETON: (
        Field("skeletontype", "skel_type", "SKELETONTYPE", Kind.INT),
        Field("rootnode", "skel_rootnode", "ROOTNODE", Kind.ID),
    ),
    ObjectType.ROI: (Field("parent", "roi_parent", "PARENT", Kind.ID),),
}
# The lists that follow from links of other objects: name -> the stored keys that hold the link.
DERIVED: Mapping[ObjectType, Mapping[str, tuple[str, ...]]] = {
    ObjectType.NEURON: {"segments": ("seg_neuron",)},
    ObjectType.SEGMENT: {
        "synapses": ("syn_segments",),
        "presynapses": ("syn_presegments",),
        "postsynapses": ("syn_postsegments",),
        "organelles": ("org_segment",),
    },
    ObjectType.SKELETON: {"nodes": ("node_skeleton",)},
    # Old clients make the children of nodes as ROIs.
    ObjectType.NODE: {"children": ("node_parent", "roi_parent")},
    ObjectType.ROI: {"children": ("roi_parent",)},
}
FIELD_OF_KEY = {field.key: field for fields in (COMMON, *OWN.values()) for field in fields}
# What no pair may be called.
RESERVED_KEYS = frozenset({ID_KEY, TYPE_KEY, *FIELD_OF_KEY})


def fields_of(kind: ObjectType) -> tuple[Field, ...]:
    """All fields of a type that are stored."""
    return COMMON + OWN[kind]


def field_named(kind: ObjectType, name: str) -> Field | None:
    """The field that clients call `name`, also by its stored key; None if it has none such."""
    return next((field for field in fields_of(kind) if name in (field.name, field.key)), None)


def object_type(code: int) -> ObjectType:
    """The type of a code; InvalidRequest if there is none."""
    try:
        return ObjectType(code)
    except ValueError:
        raise InvalidRequest(f"{code} is no type of an object; types are 1 to 9") from None


@dataclass(frozen=True, slots=True)
class RamonObject:
    """One object.

    Attributes
    ----------
    id : int
        0 where it has none yet.
    type : ObjectType
    fields : mapping of str to Value
        Every stored field of the type, by its stored key.
    pairs : mapping of str to tuple of str
        What clients added, with one value or more each.
    """

    id: int
    type: ObjectType
    fields: Mapping[str, Value]
    pairs: Mapping[str, tuple[str, ...]]


def make_object(
    object_id: int,
    kind: ObjectType,
    values: Mapping[str, object],
    pairs: Mapping[str, Sequence[str]] | None = None,
) -> RamonObject:
    """An object of what a client sent.

    Parameters
    ----------
    object_id : int
    kind : ObjectType
    values : mapping of str to object
        By stored key of the type: numbers, texts, sequences of numbers, in any mixture that a field
        can be made of. What is missing has its default.
    pairs : mapping of str to sequence of str

    Raises
    ------
    Malformed
        If a value does not fit its field, or a pair has no fitting key or value.
    TooLarge
        If all of it is more than a store takes.
    """
    known = {field.key: field for field in fields_of(kind)}
    fields = {key: field.default for key, field in known.items()}
    fields |= {key: checked(known[key], value) for key, value in values.items()}
    made = RamonObject(object_id, kind, fields, checked_pairs(pairs or {}))
    size = len(json.dumps(stored_fields(made)))
    if size > MAX_OBJECT_BYTES:
        raise TooLarge("fields of one object", asked=size, limit=MAX_OBJECT_BYTES)
    return made


def checked(field: Field, value: object) -> Value:
    """A value as a field holds it; Malformed if it can be none."""
    match field.kind:
        case Kind.TEXT:
            if not isinstance(value, str):
                raise _misfit(field, value)
            return _text(value, field.name)
        case Kind.INT:
            return _integer(field, value, MIN_INT, MAX_INT)
        case Kind.ID:
            return _integer(field, value, 0, MAX_ID)
        case Kind.FLOAT:
            return float(_number(field, value))
        case Kind.IDS:
            return tuple(_integer(field, item, 0, MAX_ID) for item in _items(field, value))
        case Kind.VOXEL:
            voxel = tuple(_integer(field, item, 0, MAX_INT) for item in _items(field, value))
            return _triple(field, voxel)
        case Kind.POINT:
            return _triple(field, tuple(_number(field, item) for item in _items(field, value)))


def checked_pairs(pairs: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Pairs, once their keys and values are such; Malformed."""
    for key, values in pairs.items():
        if not 0 < len(key) <= MAX_KEY_CHARACTERS:
            raise Malformed(f"a key has 1 to {MAX_KEY_CHARACTERS} characters, not {len(key)}")
        _text(key, "a key")
        if key in RESERVED_KEYS:
            raise Malformed(f"{key} is no key of a pair: a field of some type is called so")
        for value in values:
            _text(value, key)
    return {key: tuple(values) for key, values in pairs.items() if values}


def _text(value: str, what: str) -> str:
    shown = what[:SHOWN_CHARACTERS]
    if len(value) > MAX_VALUE_CHARACTERS:
        raise Malformed(f"{shown} has more than {MAX_VALUE_CHARACTERS} characters")
    # Files end a text at a zero, and no text is half of a surrogate pair.
    if any(character == "\0" or "\ud800" <= character <= "\udfff" for character in value):
        raise Malformed(f"{shown!a} has characters that are no text")
    return value


def _number(field: Field, value: object) -> int | float:
    """A finite number that a column can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _misfit(field, value)
    if isinstance(value, int) and abs(value) > MAX_ID:
        raise Malformed(f"{field.name} is beyond {MAX_ID}")
    if not math.isfinite(value):
        raise _misfit(field, value)
    return value


def _integer(field: Field, value: object, low: int, high: int) -> int:
    number = _number(field, int(value) if isinstance(value, bool) else value)
    if number != int(number):
        raise _misfit(field, value)
    if not low <= number <= high:
        raise Malformed(f"{field.name} is {int(number)}; {low} to {high} are allowed")
    return int(number)


def _items(field: Field, value: object) -> Sequence[object]:
    """The elements of a list; a number alone counts as a list of it."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return [value]
    if not isinstance(value, list | tuple):
        raise _misfit(field, value)
    return value


def _triple(field: Field, items: tuple[int | float, ...]) -> tuple[int | float, ...]:
    if len(items) not in (0, AXES):
        raise InvalidRequest(f"{field.name} has {len(items)} values; it has {AXES}, or none")
    return items


def _misfit(field: Field, value: object) -> Malformed:
    shown = value if isinstance(value, str) else type(value).__name__
    if isinstance(value, float | bool):
        shown = str(value)
    return Malformed(f"{field.name} must be {field.kind.value}, not {shown[:SHOWN_CHARACTERS]!r}")


# -- stored, which is nearly what JSON shows


def stored_fields(item: RamonObject) -> dict[str, Any]:
    """The flat form: an empty list is left out, three coordinates are a text; `Any` as in JSON."""
    flat: dict[str, Any] = {TYPE_KEY: int(item.type), ID_KEY: item.id}
    for field in fields_of(item.type):
        value = item.fields[field.key]
        if field.kind is Kind.IDS and not value:
            continue
        flat[field.key] = flat_value(field, value)
    for key, values in item.pairs.items():
        flat[key] = values[0] if len(values) == 1 else list(values)
    return flat


def flat_value(field: Field, value: Value) -> Any:
    """A value of a field as `stored_fields` has it, hence `Any`."""
    if field.kind in (Kind.VOXEL, Kind.POINT) and isinstance(value, tuple):
        return json.dumps(list(value))
    return list(value) if isinstance(value, tuple) else value


def from_stored(object_id: int, flat: Mapping[str, Any]) -> RamonObject:
    """An object from its flat form; `Any` is what JSON holds."""
    kind = ObjectType(flat[TYPE_KEY])
    fields: dict[str, Value] = {}
    for field in fields_of(kind):
        value = flat.get(field.key)
        if value is None:
            fields[field.key] = field.default
        elif field.kind in (Kind.VOXEL, Kind.POINT):
            fields[field.key] = tuple(json.loads(value))
        else:
            fields[field.key] = tuple(value) if field.kind is Kind.IDS else value
    # A field of another type may be there if the type was changed while somebody set it.
    pairs = {
        key: tuple(value) if isinstance(value, list) else (value,)
        for key, value in flat.items()
        if key not in RESERVED_KEYS
    }
    return RamonObject(object_id, kind, fields, pairs)


def from_json(flat: Mapping[str, Any]) -> RamonObject:
    """An object that a client sent in the flat form, hence `Any`; Malformed.

    Without an id it gets 0, without a type it is a generic one. Three coordinates may be a list.
    """
    code, object_id = flat.get(TYPE_KEY, 1), flat.get(ID_KEY, 0)
    if isinstance(code, bool) or not isinstance(code, int) or code not in list(ObjectType):
        raise Malformed(f"{TYPE_KEY} must be a number, 1 to 9")
    if isinstance(object_id, bool) or not isinstance(object_id, int) or object_id < 0:
        raise Malformed(f"{ID_KEY} must be a number, 0 for a new one")
    kind = ObjectType(code)
    values: dict[str, object] = {}
    pairs: dict[str, list[str]] = {}
    known = {field.key: field for field in fields_of(kind)}
    for key, value in flat.items():
        if key in known:
            values[key] = _sent_value(known[key], value)
        elif key not in (TYPE_KEY, ID_KEY):
            pairs[key] = [_sent_text(key, item) for item in _one_or_more(value)]
    return make_object(object_id, kind, values, pairs)


def _sent_value(field: Field, value: object) -> object:
    if field.kind in (Kind.VOXEL, Kind.POINT) and isinstance(value, str):
        try:
            return json.loads(value[:MAX_NUMBER_CHARACTERS])
        except ValueError as error:
            raise _misfit(field, value) from error
    return value


def _one_or_more(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else [value]


def _sent_text(key: str, value: object) -> str:
    """A value of a pair: whatever is no list and no object, as the text that JSON has for it."""
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, list | dict):
        raise Malformed(f"the value of {key[:SHOWN_CHARACTERS]} must be a text or a list of texts")
    return json.dumps(value) if not isinstance(value, float) else repr(value)


# -- lists of segments of old


def directed_segments(rows: Iterable[Sequence[int]]) -> dict[str, list[int]]:
    """Segments with a flow direction each (1 pre, 2 post, 3 both) -> the three lists, by key."""
    segments, presegments, postsegments = [], [], []
    for segment, direction in rows:
        segments.append(segment)
        if direction in _PRE:
            presegments.append(segment)
        if direction in _POST:
            postsegments.append(segment)
    return {
        "syn_segments": segments,
        "syn_presegments": presegments,
        "syn_postsegments": postsegments,
    }
