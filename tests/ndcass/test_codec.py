from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ndcass import codec
from ndcass.errors import CorruptValue, InvalidRequest
from ndcass.merge import EMPTY, Exceptions, WriteOp

DTYPES = ["<u1", "<u2", "<u4", "<u8", "<i1", "<i2", "<i4", "<i8", "<f4", "<f8"]
CODECS = [codec.RAW, codec.LZ4, codec.ZSTD]
ADDRESS = (7, 0, 2, 0, 143)
IDENTITY = codec.row_identity(ADDRESS, b"w" * 16, WriteOp.BASE, (0, 0, 0), (4, 8, 8))

Voxels = npt.NDArray[Any]  # whatever type a test stores


def smooth(dtype: str = "<u2", shape: tuple[int, int, int] = (6, 96, 96)) -> Voxels:
    """Voxels that compress."""
    z, y, x = np.indices(shape)
    stored: Voxels = (z + y // 16 + x // 32).astype(dtype)
    return stored


def noise(dtype: str = "<u2", shape: tuple[int, int, int] = (6, 96, 96)) -> Voxels:
    """Voxels that do not compress."""
    bits = np.random.default_rng(1).integers(0, 256, np.prod(shape) * 8, dtype=np.uint8)
    return bits.view(dtype)[: np.prod(shape)].reshape(shape)


SOME = Exceptions(
    np.array([0, 0, 5, 200], dtype=np.uint32), np.array([3, 9, 1, (1 << 64) - 1], dtype=np.uint64)
)

# One of each format, small enough to try every byte; two blocks and more where there are blocks.
PAYLOADS = {
    "constant": codec.encode(np.full((4, 8, 8), 5, dtype="<u4"), identity=IDENTITY),
    "raw": codec.encode(noise("<u2", (5, 64, 64)), identity=IDENTITY),
    "lz4": codec.encode(smooth("<u2", (5, 64, 64)), identity=IDENTITY),
    "zstd": codec.encode(smooth("<u2", (5, 64, 64)), identity=IDENTITY, codec=codec.ZSTD),
    "constant with exceptions": codec.encode(
        np.full((4, 8, 8), 5, dtype="<u4"), SOME, identity=IDENTITY
    ),
    "lz4 with exceptions": codec.encode(smooth("<u4", (5, 64, 64)), SOME, identity=IDENTITY),
    "raw with exceptions": codec.encode(noise("<u4", (2, 8, 8)), SOME, identity=IDENTITY),
}


def same_bits(some: Voxels, others: Voxels) -> bool:
    return (some.dtype, some.shape, some.tobytes()) == (
        others.dtype,
        others.shape,
        others.tobytes(),
    )


@st.composite
def voxels(draw: st.DrawFn) -> Voxels:
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.tuples(*[st.integers(1, 9)] * 3))
    return draw(hnp.arrays(dtype, shape))


@st.composite
def exceptions(draw: st.DrawFn) -> Exceptions:
    pairs = sorted(
        draw(st.sets(st.tuples(st.integers(0, (1 << 32) - 1), st.integers(1, (1 << 64) - 1))))
    )
    return Exceptions(
        np.array([offset for offset, _ in pairs], dtype=np.uint32),
        np.array([label for _, label in pairs], dtype=np.uint64),
    )


# -- there and back


@given(voxels(), exceptions(), st.sampled_from(CODECS))
def test_what_was_encoded_decodes_bit_for_bit(stored: Voxels, also: Exceptions, how: int) -> None:
    payload = codec.encode(stored, also, identity=IDENTITY, codec=how)
    found, found_exceptions = codec.decode(payload, identity=IDENTITY)
    assert same_bits(found, stored)
    assert found_exceptions.offsets.tolist() == also.offsets.tolist()
    assert found_exceptions.labels.tolist() == also.labels.tolist()
    assert found_exceptions.offsets.dtype == np.dtype(np.uint32)
    assert found_exceptions.labels.dtype == np.dtype(np.uint64)


@pytest.mark.parametrize("how", CODECS)
@pytest.mark.parametrize("make", [smooth, noise])
@pytest.mark.parametrize("dtype", DTYPES)
def test_cuboids_of_several_blocks_come_back(dtype: str, make: Any, how: int) -> None:
    stored = make(dtype)
    payload = codec.encode(stored, identity=IDENTITY, codec=how)
    found, none = codec.decode(payload, identity=IDENTITY)
    assert same_bits(found, stored)
    assert len(none) == 0


@pytest.mark.parametrize("shape", [(16, 128, 128), (64, 64, 64), (1, 128, 128), (16, 1, 1)])
def test_cuboids_of_the_real_shapes_come_back(shape: tuple[int, int, int]) -> None:
    for stored in (smooth("<u1", shape), noise("<u1", shape)):
        found, _ = codec.decode(codec.encode(stored, identity=IDENTITY), identity=IDENTITY)
        assert same_bits(found, stored)


def test_voxels_need_not_be_contiguous() -> None:
    part = noise("<u2", (8, 40, 60))[::2, 3:20, 5:50:3]
    found, _ = codec.decode(codec.encode(part, identity=IDENTITY), identity=IDENTITY)
    assert same_bits(found, part)


def test_the_pieces_are_the_payload() -> None:
    for stored in (smooth(), noise(), np.zeros((4, 8, 8), dtype="<u1")):
        pieces = codec.encode_parts(stored, SOME, identity=IDENTITY)
        assert b"".join(pieces) == codec.encode(stored, SOME, identity=IDENTITY)


@pytest.mark.parametrize("payload", [bytes, bytearray, memoryview])
def test_any_buffer_decodes(payload: Any) -> None:
    found, _ = codec.decode(payload(PAYLOADS["raw"]), identity=IDENTITY)
    assert same_bits(found, noise("<u2", (5, 64, 64)))


# -- formats


def test_the_first_byte_names_the_format() -> None:
    names = {"constant": codec.CONSTANT, "raw": codec.RAW, "lz4": codec.LZ4, "zstd": codec.ZSTD}
    assert {name: PAYLOADS[name][0] for name in names} == names


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_constant_cuboid_stores_its_value_only(dtype: str) -> None:
    payload = codec.encode(np.full((64, 64, 64), 3, dtype=dtype), identity=IDENTITY)
    assert len(payload) < 100


def test_a_nan_is_as_constant_as_any_value_but_the_two_zeros_differ() -> None:
    nan = np.full((4, 8, 8), np.nan, dtype="<f4")
    payload = codec.encode(nan, identity=IDENTITY)
    assert payload[0] == codec.CONSTANT
    assert same_bits(codec.decode(payload, identity=IDENTITY)[0], nan)
    zeros = np.zeros((4, 8, 8), dtype="<f4")
    zeros[1, 1, 1] = -0.0
    payload = codec.encode(zeros, identity=IDENTITY)
    assert payload[0] != codec.CONSTANT
    assert same_bits(codec.decode(payload, identity=IDENTITY)[0], zeros)


def test_noise_is_stored_raw_and_aligned() -> None:
    stored = noise("<u1", (16, 128, 128))
    payload = codec.encode(stored, identity=IDENTITY)
    header = codec.read_header(payload, identity=IDENTITY)
    assert header.body_at % codec.ALIGNMENT == 0
    assert payload[header.body_at :] == stored.tobytes()


def test_raw_voxels_decode_without_a_copy() -> None:
    found, _ = codec.decode(PAYLOADS["raw"], identity=IDENTITY)
    assert np.shares_memory(found, np.frombuffer(PAYLOADS["raw"], dtype=np.uint8))
    assert not found.flags.writeable


@pytest.mark.parametrize("how", [codec.LZ4, codec.ZSTD])
def test_labels_compress(how: int) -> None:
    stored = smooth("<u8", (64, 64, 64))
    assert len(codec.encode(stored, identity=IDENTITY, codec=how)) < stored.nbytes / 10


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((2, 2, 2), dtype=">u2"),
        np.zeros((2, 2, 2), dtype=bool),
        np.zeros((2, 2, 2), dtype="<c8"),
        np.zeros((2, 2, 2), dtype="<f2"),
        np.zeros((2, 2, 2), dtype=object),
        np.zeros((2, 2), dtype="<u2"),
        np.zeros((1, 2, 2, 2), dtype="<u2"),
    ],
)
def test_what_ndcass_does_not_store_is_refused(bad: Voxels) -> None:
    with pytest.raises(InvalidRequest, match="cannot be stored"):
        codec.encode(bad, identity=IDENTITY)


# -- a box of a payload


@st.composite
def sources(draw: st.DrawFn, shape: tuple[int, ...] = (5, 64, 64)) -> tuple[slice, slice, slice]:
    starts = [draw(st.integers(0, size - 1)) for size in shape]
    z, y, x = (slice(a, draw(st.integers(a + 1, n))) for a, n in zip(starts, shape, strict=True))
    return z, y, x


@pytest.mark.parametrize("name", ["raw", "lz4", "zstd"])
@given(source=sources())
def test_a_box_is_copied_into_its_target(name: str, source: tuple[slice, slice, slice]) -> None:
    stored = noise("<u2", (5, 64, 64)) if name == "raw" else smooth("<u2", (5, 64, 64))
    out = np.zeros((7, 70, 70), dtype="<u2")
    shape = tuple(s.stop - s.start for s in source)
    target = out[1 : 1 + shape[0], 2 : 2 + shape[1], 3 : 3 + shape[2]]
    codec.decode_into(PAYLOADS[name], source, target, identity=IDENTITY)
    assert np.array_equal(target, stored[source])
    target[...] = 0
    assert not out.any()


def test_a_box_of_a_constant_cuboid() -> None:
    out = np.zeros((2, 2, 2), dtype="<u4")
    box = (slice(0, 1), slice(3, 4), slice(6, 8))
    codec.decode_into(PAYLOADS["constant"], box, out[:1, :1], identity=IDENTITY)
    assert out.ravel().tolist() == [5, 5, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("name", list(PAYLOADS))
def test_a_box_of_another_type_or_a_larger_cuboid_is_damage(name: str) -> None:
    depth, height, width = codec.read_header(PAYLOADS[name], identity=IDENTITY).shape_zyx
    dtype = codec.read_header(PAYLOADS[name], identity=IDENTITY).dtype
    one = slice(0, 1)
    with pytest.raises(CorruptValue, match="stored voxels are"):
        codec.decode_into(
            PAYLOADS[name], (one, one, one), np.zeros((1, 1, 1), dtype="<i8"), identity=IDENTITY
        )
    for box in (
        (slice(depth, depth + 1), one, one),
        (one, slice(height, height + 1), one),
        (one, one, slice(width, width + 1)),
    ):
        with pytest.raises(CorruptValue, match="only"):
            codec.decode_into(
                PAYLOADS[name], box, np.zeros((1, 1, 1), dtype=dtype), identity=IDENTITY
            )


@pytest.mark.parametrize("name", ["raw", "lz4", "zstd"])
def test_a_box_is_never_wrong_whatever_byte_is_damaged(name: str) -> None:
    """It raises, or the damage is in planes that were not read."""
    payload = PAYLOADS[name]
    one_plane = (slice(3, 4), slice(0, 64), slice(0, 64))
    expected = codec.decode(payload, identity=IDENTITY)[0][one_plane]
    raised = 0
    for place in [*range(200), *range(200, len(payload), 37)]:
        out = np.zeros((1, 64, 64), dtype="<u2")
        try:
            codec.decode_into(flipped(payload, place, 0x10), one_plane, out, identity=IDENTITY)
        except CorruptValue:
            raised += 1
        else:
            assert np.array_equal(out, expected), place
    assert raised >= codec.read_header(payload, identity=IDENTITY).body_at


# -- damage


def flipped(payload: bytes, place: int, bits: int) -> bytes:
    damaged = bytearray(payload)
    damaged[place % len(payload)] ^= bits
    return bytes(damaged)


@pytest.mark.parametrize("name", list(PAYLOADS))
def test_a_damaged_byte_anywhere_is_found(name: str) -> None:
    payload = PAYLOADS[name]
    step = max(1, len(payload) // 1500)
    for place in [*range(min(300, len(payload))), *range(300, len(payload), step)]:
        for bits in (0x01, 0x80, 0xFF):
            with pytest.raises(CorruptValue):
                codec.decode(flipped(payload, place, bits), identity=IDENTITY)


@pytest.mark.parametrize("name", list(PAYLOADS))
@given(place=st.integers(0, 1 << 20), bits=st.integers(1, 255))
def test_verify_finds_any_damaged_byte(name: str, place: int, bits: int) -> None:
    codec.verify(PAYLOADS[name], identity=IDENTITY)
    with pytest.raises(CorruptValue):
        codec.verify(flipped(PAYLOADS[name], place, bits), identity=IDENTITY)


@pytest.mark.parametrize("name", list(PAYLOADS))
@given(data=st.data())
def test_a_payload_that_was_cut_or_grew_is_found(name: str, data: st.DataObject) -> None:
    payload = PAYLOADS[name]
    cut = data.draw(st.integers(0, len(payload) - 1))
    with pytest.raises(CorruptValue):
        codec.decode(payload[:cut], identity=IDENTITY)
    with pytest.raises(CorruptValue):
        codec.decode(payload + data.draw(st.binary(min_size=1, max_size=80)), identity=IDENTITY)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_payload_are_damage(junk: bytes) -> None:
    with pytest.raises(CorruptValue):
        codec.decode(junk, identity=IDENTITY)
    with pytest.raises(CorruptValue):
        codec.decode(bytes([codec.RAW, 0]) + junk, identity=IDENTITY)


@pytest.mark.parametrize("name", list(PAYLOADS))
@pytest.mark.parametrize(
    "other",
    [
        codec.row_identity((7, 0, 2, 0, 144), b"w" * 16, WriteOp.BASE, (0, 0, 0), (4, 8, 8)),
        codec.row_identity((7, 0, 2, 1, 143), b"w" * 16, WriteOp.BASE, (0, 0, 0), (4, 8, 8)),
        codec.row_identity((7, 0, 3, 0, 143), b"w" * 16, WriteOp.BASE, (0, 0, 0), (4, 8, 8)),
        codec.row_identity((7, 1, 2, 0, 143), b"w" * 16, WriteOp.BASE, (0, 0, 0), (4, 8, 8)),
        codec.row_identity((8, 0, 2, 0, 143), b"w" * 16, WriteOp.BASE, (0, 0, 0), (4, 8, 8)),
        codec.row_identity(ADDRESS, b"v" * 16, WriteOp.BASE, (0, 0, 0), (4, 8, 8)),
        codec.row_identity(ADDRESS, b"w" * 16, WriteOp.MERGE, (0, 0, 0), (4, 8, 8)),
        codec.row_identity(ADDRESS, b"w" * 16, WriteOp.BASE, (0, 0, 1), (4, 8, 8)),
        codec.row_identity(ADDRESS, b"w" * 16, WriteOp.BASE, (0, 0, 0), (4, 8, 7)),
    ],
)
def test_a_value_under_another_key_is_damage(name: str, other: bytes) -> None:
    with pytest.raises(CorruptValue):
        codec.decode(PAYLOADS[name], identity=other)


@pytest.mark.parametrize("how", CODECS)
def test_exceptions_of_nothing_are_empty(how: int) -> None:
    payload = codec.encode(smooth(), EMPTY, identity=IDENTITY, codec=how)
    _, found = codec.decode(payload, identity=IDENTITY)
    assert len(found) == 0


def test_the_checksum_is_crc32c() -> None:
    assert codec.checksum(b"123456789") == 0xE3069283
    assert codec.checksum(b"6789", codec.checksum(b"12345")) == 0xE3069283


@pytest.mark.parametrize("name", ["lz4", "zstd"])
def test_blocks_of_zeros_between_others_read_back(name: str) -> None:
    voxels = np.zeros((16, 128, 128), dtype="<u4")
    voxels[3, 5, 7], voxels[9] = 12, np.arange(128)
    payload = codec.encode(voxels, identity=b"i", codec=codec.CODECS[name])
    assert np.array_equal(codec.decode(payload, identity=b"i")[0], voxels)
    scratch = np.full_like(voxels, 99)
    found, _ = codec.decode(payload, identity=b"i", scratch=scratch)
    assert found is scratch
    assert np.array_equal(found, voxels)
    other, _ = codec.decode(payload, identity=b"i", scratch=scratch.astype("<u8"))
    assert np.array_equal(other, voxels)
