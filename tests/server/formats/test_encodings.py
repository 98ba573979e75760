import gzip
import tracemalloc
from collections.abc import Callable

import lz4.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndcass.errors import BadBody, InvalidOption
from ndcass.server.formats.base import Layout
from ndcass.server.formats.encodings import ENCODINGS, decoding, encoding
from ndcass.server.formats.npz import NpzDecoder, NpzEncoder
from ndcass.server.formats.raw import RawDecoder, RawEncoder
from tests.server.formats.bodies import Array, arrays, decoded, encoded, layout_of, numbers

PACK: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "lz4": lz4.frame.compress}
UNPACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.decompress,
    "lz4": lz4.frame.decompress,
}

each_encoding = pytest.mark.parametrize("name", ENCODINGS)


def sent(name: str, layout: Layout, body: bytes, *, step: int = 1 << 16) -> bytes:
    return decoded(decoding(name, RawDecoder(layout)), body, step=step)


@each_encoding
@given(array=arrays(), step=st.integers(1, 100))
def test_the_usual_tools_read_what_is_sent(name: str, array: Array, step: int) -> None:
    encoder = encoding(name, RawEncoder(layout_of(array)))
    assert encoder.length is None
    assert encoder.content_encoding == name
    assert encoder.suffix == "raw"
    assert UNPACK[name](encoded(encoder, array, step=step)) == array.tobytes()


@each_encoding
@given(array=arrays(), step=st.integers(1, 100))
def test_what_the_usual_tools_send_is_read(name: str, array: Array, step: int) -> None:
    body = PACK[name](array.tobytes())
    assert sent(name, layout_of(array), body, step=step) == array.tobytes()


@each_encoding
@pytest.mark.parametrize("dtype", ["|u1", "<u4"])
def test_several_megabytes_pass_both_ways(name: str, dtype: str) -> None:
    array = numbers((1, 3, 701, 1003), dtype)
    array[:, 1] = 7
    layout = layout_of(array)
    body = encoded(encoding(name, RawEncoder(layout)), array)
    assert sent(name, layout, body) == array.tobytes()


@each_encoding
def test_a_compressed_format_may_be_inside(name: str) -> None:
    array = numbers((2, 3, 4, 5), "<u2")
    layout = layout_of(array)
    body = encoded(encoding(name, NpzEncoder(layout)), array)
    assert decoded(decoding(name, NpzDecoder(layout)), body) == array.tobytes()


@each_encoding
def test_every_truncation_is_refused(name: str) -> None:
    array = numbers((1, 2, 3, 4))
    body = PACK[name](array.tobytes())
    for length in range(len(body)):
        with pytest.raises(BadBody):
            sent(name, layout_of(array), body[:length])


@each_encoding
@pytest.mark.parametrize("extra", [b"\0", b"twice"])
def test_trailing_bytes_are_refused(name: str, extra: bytes) -> None:
    array = numbers((1, 2, 3, 4))
    body = PACK[name](array.tobytes())
    trailing = body if extra == b"twice" else extra
    for step in (1, len(body), 1 << 16):
        with pytest.raises(BadBody, match="follow the end"):
            sent(name, layout_of(array), body + trailing, step=step)


@each_encoding
@pytest.mark.parametrize("body", [b"voxels", b"\x1f\x8b", bytes(40)])
def test_other_bytes_are_refused(name: str, body: bytes) -> None:
    with pytest.raises(BadBody):
        sent(name, layout_of(numbers((1, 2, 3, 4))), body)


@each_encoding
def test_a_bomb_is_refused_before_it_takes_memory(name: str) -> None:
    bomb = PACK[name](bytes(1 << 27))
    layout = layout_of(numbers((1, 4, 4, 4)))
    tracemalloc.start()
    with pytest.raises(BadBody, match="longer than the 64 bytes"):
        sent(name, layout, bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


def test_identity_changes_nothing() -> None:
    encoder = RawEncoder(layout_of(numbers((1, 1, 1, 1))))
    decoder = RawDecoder(layout_of(numbers((1, 1, 1, 1))))
    assert encoding(None, encoder) is encoding("identity", encoder) is encoder
    assert decoding(None, decoder) is decoding("identity", decoder) is decoder


def test_an_unknown_encoding_names_the_known_ones() -> None:
    layout = layout_of(numbers((1, 1, 1, 1)))
    with pytest.raises(InvalidOption, match="'br' is not known; gzip, lz4 are"):
        decoding("br", RawDecoder(layout))
    with pytest.raises(InvalidOption, match="zstd"):
        encoding("zstd", RawEncoder(layout))
