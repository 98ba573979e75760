import contextlib
import gzip
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndcass.errors import BadBody
from ndcass.server.formats.base import STEP_BYTES
from ndcass.server.formats.deflate import BLOCK_BYTES, DeflateWriter, Inflater
from tests.server.formats.bodies import numbers

NOISE = numbers((BLOCK_BYTES + 3,)).tobytes()
REPEATS = b"abc" * BLOCK_BYTES

# Runs that compress and runs that do not, in any order: which and how long.
MIXTURES = st.lists(
    st.tuples(
        st.sampled_from(["noise", "repeats"]), st.one_of(st.integers(0, 9), st.integers(0, 200_000))
    ),
    max_size=6,
)


def pieces_of(mixture: list[tuple[str, int]]) -> list[bytes]:
    return [(NOISE if kind == "noise" else REPEATS)[:length] for kind, length in mixture]


def written(pieces: list[bytes], *, as_gzip: bool = False) -> bytes:
    writer = DeflateWriter(gzip=as_gzip)
    return writer.head() + b"".join([writer.piece(piece) for piece in pieces]) + writer.tail()


def inflated(body: bytes, *, as_gzip: bool = False, step: int = 1 << 20) -> bytes:
    reader = Inflater(gzip=as_gzip)
    out = b"".join(
        part for i in range(0, len(body), step) for part in reader.feed(body[i : i + step])
    )
    reader.finish()
    return out


@given(MIXTURES)
def test_zlib_and_gzip_read_mixtures_of_stored_and_compressed_blocks(
    mixture: list[tuple[str, int]],
) -> None:
    pieces = pieces_of(mixture)
    assert zlib.decompress(written(pieces)) == b"".join(pieces)
    assert gzip.decompress(written(pieces, as_gzip=True)) == b"".join(pieces)


@given(MIXTURES, st.sampled_from([1, 6]), st.integers(50, 5000))
def test_streams_of_zlib_are_read_however_they_are_cut(
    mixture: list[tuple[str, int]], level: int, step: int
) -> None:
    content = b"".join(pieces_of(mixture))
    assert inflated(zlib.compress(content, level), step=step) == content
    assert inflated(gzip.compress(content, level), as_gzip=True, step=step) == content


def test_the_stream_begins_as_the_original_s() -> None:
    assert written([b"voxels"])[:2] == b"\x78\x9c"


def test_noise_hardly_grows_and_repeats_shrink() -> None:
    assert len(written([NOISE])) < len(NOISE) * 1.001
    assert len(written([REPEATS])) < len(REPEATS) * 0.05


def test_a_block_with_a_plain_border_is_still_probed_inside() -> None:
    bordered = bytes(BLOCK_BYTES // 32) + NOISE[: BLOCK_BYTES // 32 * 31]
    assert len(written([bordered])) > len(bordered) * 0.99


@pytest.mark.parametrize("as_gzip", [False, True])
def test_every_truncation_is_refused(*, as_gzip: bool) -> None:
    body = written([b"voxels" * 9, NOISE[:40]], as_gzip=as_gzip)
    for length in range(len(body)):
        with pytest.raises(BadBody):
            inflated(body[:length], as_gzip=as_gzip)


@pytest.mark.parametrize("as_gzip", [False, True])
def test_trailing_bytes_are_refused(*, as_gzip: bool) -> None:
    body = written([b"voxels"], as_gzip=as_gzip) + b"\0"
    for step in (1, len(body) - 1, len(body)):
        with pytest.raises(BadBody, match="follow the end"):
            inflated(body, as_gzip=as_gzip, step=step)


@pytest.mark.parametrize("as_gzip", [False, True])
def test_a_wrong_checksum_is_refused(*, as_gzip: bool) -> None:
    body = bytearray(written([b"voxels"], as_gzip=as_gzip))
    body[-6 if as_gzip else -1] ^= 1
    with pytest.raises(BadBody):
        inflated(bytes(body), as_gzip=as_gzip)


@given(st.binary(max_size=200))
def test_other_bytes_are_refused_as_zlib_refuses_them(body: bytes) -> None:
    try:
        expected = zlib.decompress(body)
    except zlib.error:
        with pytest.raises(BadBody):
            inflated(body)
    else:
        assert inflated(body) == expected


@given(st.integers(0, 100), st.integers(1, 255))
def test_a_flipped_byte_never_gives_other_content(place: int, flip: int) -> None:
    content = b"voxels and more voxels" * 4
    body = bytearray(zlib.compress(content))
    body[place % len(body)] ^= flip
    with contextlib.suppress(BadBody):
        assert inflated(bytes(body)) == content


def test_a_bomb_comes_in_small_steps() -> None:
    bomb = zlib.compress(np.zeros(1 << 27, dtype=np.uint8).tobytes(), 9)
    reader = Inflater()
    tracemalloc.start()
    total = 0
    for part in reader.feed(bomb):
        assert len(part) <= STEP_BYTES
        total += len(part)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 1 << 27
    assert peak < 8 * STEP_BYTES
