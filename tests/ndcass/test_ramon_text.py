import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndcass import ramon, ramon_text
from ndcass.errors import InvalidRequest, Malformed
from ndcass.ramon import Kind, ObjectType

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


@given(st.dictionaries(TEXTS.filter(lambda t: t.strip("\r\n") == t and t), TEXTS, max_size=4))
def test_pairs_come_back_from_their_lines(pairs: dict[str, str]) -> None:
    wanted = {key: (value,) for key, value in pairs.items()}
    assert ramon_text.parse_pairs(ramon_text.pairs_text(wanted)) == wanted


def test_pairs_are_read_with_any_line_end_and_the_last_of_a_key_counts() -> None:
    assert ramon_text.parse_pairs("a,1\r\n\r\nb,2\n  \na,3") == {"a": ("3",), "b": ("2",)}
    with pytest.raises(Malformed):
        ramon_text.parse_pairs("a,1,2\r\n")


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
        assert ramon_text.field_text(ramon_text.parse_field(field, text)) == text


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
        ramon_text.parse_field(field, text)
    assert type(raised.value) is error
