import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndcass.errors import BadBody
from ndcass.server.formats.raw import RawDecoder, RawEncoder
from tests.server.formats.bodies import Array, arrays, decoded, encoded, layout_of, numbers


@given(arrays())
def test_the_body_is_the_voxels_in_c_order(array: Array) -> None:
    encoder = RawEncoder(layout_of(array))
    body = encoded(encoder, array, step=7)
    assert body == array.tobytes()
    assert encoder.length == len(body)


@given(arrays(), st.integers(1, 20))
def test_what_was_sent_comes_back_however_it_is_cut(array: Array, step: int) -> None:
    assert decoded(RawDecoder(layout_of(array)), array.tobytes(), step=step) == array.tobytes()


@pytest.mark.parametrize("length", range(24))
def test_every_truncation_is_refused(length: int) -> None:
    array = numbers((1, 2, 3, 4))
    with pytest.raises(BadBody, match=f"ends after {length} of 24"):
        decoded(RawDecoder(layout_of(array)), array.tobytes()[:length])


def test_one_byte_too_many_is_refused_as_it_comes() -> None:
    array = numbers((1, 2, 3, 4))
    decoder = RawDecoder(layout_of(array))
    assert b"".join(decoder.feed(array.tobytes())) == array.tobytes()
    with pytest.raises(BadBody, match="longer than the 24 bytes"):
        list(decoder.feed(b"\0"))
