import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndcass import ramon
from ndcass.errors import Malformed, TooLarge
from ndcass.ramon import Field, Kind, ObjectType, RamonObject

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
IDS = st.integers(0, ramon.MAX_ID)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)


def values_of(field: Field) -> st.SearchStrategy[Any]:
    return {
        Kind.INT: st.integers(ramon.MIN_INT, ramon.MAX_INT),
        Kind.ID: IDS,
        Kind.FLOAT: FLOATS,
        Kind.TEXT: TEXTS,
        Kind.IDS: st.lists(IDS, max_size=4),
        Kind.VOXEL: st.just([]) | st.lists(st.integers(0, 9999), min_size=3, max_size=3),
        Kind.POINT: st.just([]) | st.lists(FLOATS, min_size=3, max_size=3),
    }[field.kind]


@st.composite
def objects(draw: st.DrawFn) -> RamonObject:
    kind = draw(st.sampled_from(ObjectType))
    values = {field.key: draw(values_of(field)) for field in ramon.fields_of(kind)}
    keys = TEXTS.filter(lambda key: key and key not in ramon.RESERVED_KEYS)
    pairs = draw(st.dictionaries(keys, st.lists(TEXTS, min_size=1, max_size=3), max_size=3))
    return ramon.make_object(draw(IDS), kind, values, pairs)


@given(objects())
def test_an_object_comes_back_from_its_stored_form(item: RamonObject) -> None:
    stored = json.loads(json.dumps(ramon.stored_fields(item)))
    assert ramon.from_stored(item.id, stored) == item


@given(objects())
def test_what_json_shows_can_be_posted(item: RamonObject) -> None:
    assert ramon.from_json(ramon.stored_fields(item)) == item


@pytest.mark.parametrize(
    "flat",
    [
        {"ann_type": "2"},
        {"ann_type": 0},
        {"ann_type": True},
        {"ann_id": -1},
        {"ann_id": "7"},
        {"ann_type": 2, "seg_neuron": 4},
        {"ann_status": "many"},
        {"ann_confidence": 10**400},
        {"x": {"y": 1}},
        {"x": ["a", ["b"]]},
        {"x": None},
        {"x": "\ud800"},
        {"": "x"},
        {"k" * 256: "x"},
        {"x": "v" * 20_001},
        {"ann_type": 2, "syn_centroid": "[1, 2"},
    ],
)
def test_json_that_makes_no_object_is_refused(flat: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        ramon.from_json(flat)


def test_an_object_has_a_greatest_size() -> None:
    with pytest.raises(TooLarge):
        ramon.from_json({f"k{n}": "v" * 20_000 for n in range(40)})


def test_json_may_give_coordinates_as_a_list_and_one_number_for_a_list() -> None:
    item = ramon.from_json(
        {"ann_type": 2, "syn_centroid": [1, 2, 3], "syn_seeds": 4, "n": [1, "b"]}
    )
    assert item.fields["syn_centroid"] == (1, 2, 3)
    assert item.fields["syn_seeds"] == (4,)
    assert item.pairs == {"n": ("1", "b")}
    assert ramon.stored_fields(item)["syn_centroid"] == "[1, 2, 3]"


def test_directions_of_old_lists_of_segments_become_lists_of_their_own() -> None:
    assert ramon.directed_segments([(7, 1), (3, 2), (4, 3), (5, 0)]) == {
        "syn_segments": [7, 3, 4, 5],
        "syn_presegments": [7, 4],
        "syn_postsegments": [3, 4],
    }
