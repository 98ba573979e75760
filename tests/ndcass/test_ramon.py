import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndcass import ramon
from ndcass.errors import InvalidRequest, Malformed, TooLarge
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


@given(st.dictionaries(TEXTS.filter(lambda t: t.strip("\r\n") == t and t), TEXTS, max_size=4))
def test_pairs_come_back_from_their_lines(pairs: dict[str, str]) -> None:
    wanted = {key: (value,) for key, value in pairs.items()}
    assert ramon.parse_pairs(ramon.pairs_text(wanted)) == wanted


def test_pairs_are_read_with_any_line_end_and_the_last_of_a_key_counts() -> None:
    assert ramon.parse_pairs("a,1\r\n\r\nb,2\na,3") == {"a": ("3",), "b": ("2",)}
    with pytest.raises(Malformed):
        ramon.parse_pairs("a,1,2\r\n")


@pytest.mark.parametrize("kind", ObjectType)
def test_set_field_takes_what_get_field_says(kind: ObjectType) -> None:
    texts = {
        Kind.INT: "3",
        Kind.ID: "7",
        Kind.FLOAT: "0.1",
        Kind.TEXT: "some_one",
        Kind.IDS: "4,5,6",
        Kind.VOXEL: "10,20,3",
        Kind.POINT: "1.5,2,0.25",
    }
    for field in ramon.fields_of(kind):
        text = texts[field.kind]
        assert ramon.field_text(ramon.parse_field(field, text)) == text


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("status", "aa", Malformed),
        ("status", "1.5", Malformed),
        ("status", "4294967296", Malformed),
        ("confidence", "1e999", Malformed),
        ("confidence", "nan", Malformed),
        ("seeds", "1,,2", Malformed),
        ("seeds", "1,-2", Malformed),
        ("centroid", "1,2", InvalidRequest),
        ("centroid", "1.5,2,3", Malformed),
        ("weight", "9" * 500, Malformed),
    ],
)
def test_values_that_a_field_cannot_have_are_refused(
    name: str, text: str, error: type[InvalidRequest]
) -> None:
    field = ramon.field_named(ObjectType.SYNAPSE, name)
    assert field is not None
    with pytest.raises(error) as raised:
        ramon.parse_field(field, text)
    assert type(raised.value) is error


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


@pytest.mark.parametrize(
    ("values", "edges"),
    [
        ({"syn_segments": [7, 3]}, [(3, 7)]),
        ({"syn_segments": [7]}, []),
        ({"syn_segments": [7, 7]}, []),
        ({"syn_segments": [1, 3, 2]}, [(1, 2), (1, 3), (2, 3)]),
        ({"syn_presegments": [5], "syn_postsegments": [2, 9]}, [(2, 5), (5, 9)]),
        ({}, []),
    ],
)
def test_a_synapse_joins_its_segments(
    values: dict[str, object], edges: list[tuple[int, int]]
) -> None:
    synapse = ramon.make_object(1, ObjectType.SYNAPSE, values)
    assert list(ramon.partners(synapse)) == edges
