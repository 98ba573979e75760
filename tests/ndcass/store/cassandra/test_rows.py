from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndcass import codec
from ndcass.errors import CorruptValue
from ndcass.merge import WriteOp
from ndcass.store.base import CuboidAddress
from ndcass.store.cassandra import rows
from ndcass.store.cassandra.rows import (
    BASE,
    POINTER_ID,
    WRITE,
    Bucket,
    Head,
    Pointer,
    last_id_of,
    pack_header,
    parts_of,
    timestamp_us,
    unpack_header,
)
from ndcass.store.clock import WRITE_ID_BYTES

u16 = st.integers(0, (1 << 16) - 1)
triples = st.tuples(u16, u16, u16)
write_ids = st.binary(min_size=WRITE_ID_BYTES, max_size=WRITE_ID_BYTES)
addresses = st.builds(
    CuboidAddress,
    channel_id=st.integers(0, (1 << 63) - 1),
    pyramid=st.integers(0, 1),
    level=st.integers(0, 30),
    t=st.integers(0, (1 << 62) - 1),
    morton=st.integers(0, (1 << 63) - 1),
)
heads = st.builds(
    Head,
    morton=st.just(0),
    kind=st.sampled_from([WRITE, BASE]),
    write_id=write_ids,
    op=st.sampled_from(WriteOp),
    corner_zyx=triples,
    shape_zyx=triples,
    cuboid_zyx=triples,
    size_bytes=st.integers(0, (1 << 32) - 1),
    parts=st.integers(1, rows.MOST_PARTS),
)
pointers = st.builds(Pointer, write_ids, write_ids, st.integers(0, (1 << 62) - 1))


def flipped(packed: bytes, bit: int) -> bytes:
    changed = bytearray(packed)
    changed[bit // 8 % len(packed)] ^= 1 << bit % 8
    return bytes(changed)


@given(heads, addresses)
def test_a_header_comes_back(head: Head, address: CuboidAddress) -> None:
    head = head._replace(morton=address.morton)
    packed = pack_header(head, address)
    assert unpack_header(packed, kind=head.kind, write_id=head.write_id, address=address) == head


@given(heads, addresses, st.integers(0, 1 << 16))
def test_any_flipped_bit_of_a_header_is_noticed(
    head: Head, address: CuboidAddress, bit: int
) -> None:
    packed = flipped(pack_header(head, address), bit)
    with pytest.raises(CorruptValue):
        unpack_header(packed, kind=head.kind, write_id=head.write_id, address=address)


@given(heads, addresses, st.integers(1, 127), st.integers(0, 4))
def test_a_header_at_another_place_is_noticed(
    head: Head, address: CuboidAddress, bit: int, field: int
) -> None:
    packed = pack_header(head, address)
    other_kind = WRITE if head.kind == BASE else BASE
    with pytest.raises(CorruptValue):
        unpack_header(packed, kind=other_kind, write_id=head.write_id, address=address)
    with pytest.raises(CorruptValue):
        unpack_header(packed, kind=head.kind, write_id=flipped(head.write_id, bit), address=address)
    moved = CuboidAddress(*(value ^ (place == field) for place, value in enumerate(address)))
    with pytest.raises(CorruptValue):
        unpack_header(packed, kind=head.kind, write_id=head.write_id, address=moved)


@pytest.mark.parametrize("change", [lambda packed: packed[:-1], lambda packed: packed + b"\0"])
def test_a_header_of_another_size_is_noticed(change: Callable[[bytes], bytes]) -> None:
    address = CuboidAddress(1, 0, 0, 0, 5)
    head = Head(5, WRITE, bytes(16), WriteOp.MERGE, (0, 0, 0), (1, 1, 1), (4, 8, 8), 40, 1)
    with pytest.raises(CorruptValue, match="size"):
        unpack_header(
            change(pack_header(head, address)), kind=WRITE, write_id=bytes(16), address=address
        )


def test_an_operation_of_a_newer_ndcass_is_an_error_of_the_store() -> None:
    address = CuboidAddress(1, 0, 0, 0, 5)
    newer = 250
    assert newer not in set(WriteOp)
    head = Head(5, WRITE, bytes(16), newer, (0, 0, 0), (1, 1, 1), (4, 8, 8), 40, 1)  # type: ignore[arg-type]  # it is none of ours
    with pytest.raises(CorruptValue, match="unknown operation 250"):
        unpack_header(pack_header(head, address), kind=WRITE, write_id=bytes(16), address=address)


@given(pointers)
def test_a_pointer_comes_back_and_is_always_packed_alike(pointer: Pointer) -> None:
    assert Pointer.unpack(pointer.pack()) == pointer
    assert Pointer(*pointer).pack() == pointer.pack()  # transactions compare the bytes


@given(pointers, st.integers(0, 1 << 16))
def test_any_flipped_bit_of_a_pointer_is_noticed(pointer: Pointer, bit: int) -> None:
    with pytest.raises(CorruptValue):
        Pointer.unpack(flipped(pointer.pack(), bit))
    with pytest.raises(CorruptValue):
        Pointer.unpack(pointer.pack()[:-1])


@given(write_ids, write_ids)
def test_timestamps_have_the_order_of_ids(one: bytes, other: bytes) -> None:
    first, last = sorted([one, other])
    assert timestamp_us(first) <= timestamp_us(last)


@given(st.integers(0, (1 << 48) - 2), write_ids)
def test_a_watermark_is_the_last_id_of_its_millisecond(ms: int, write_id: bytes) -> None:
    watermark = last_id_of(ms)
    assert watermark >= ms.to_bytes(6, "big") + write_id[6:]
    assert watermark < (ms + 1).to_bytes(6, "big") + bytes(10)
    # A delete with the watermark's timestamp takes in every row up to it, and none behind it.
    assert timestamp_us(watermark) >= timestamp_us(ms.to_bytes(6, "big") + write_id[6:])
    assert timestamp_us(watermark) < timestamp_us((ms + 1).to_bytes(6, "big") + bytes(10))


@given(st.integers(0, 20 * rows.PART_BYTES))
def test_parts_hold_a_payload_and_none_is_empty(size: int) -> None:
    parts = parts_of(size)
    assert (parts - 1) * rows.PART_BYTES < max(1, size) <= parts * rows.PART_BYTES


@given(addresses, st.integers(0, 20))
def test_a_cuboid_is_found_in_its_bucket(address: CuboidAddress, bucket_bits: int) -> None:
    bucket = Bucket.of(address, bucket_bits)
    assert bucket.address(address.morton) == address
    first = bucket.bucket << bucket_bits
    assert first <= address.morton < first + (1 << bucket_bits)


def test_a_payloads_checksum_covers_the_row_it_belongs_to() -> None:
    address = CuboidAddress(1, 0, 0, 0, 5)
    head = Head(5, WRITE, bytes(16), WriteOp.MERGE, (0, 0, 0), (1, 2, 3), (4, 8, 8), 40, 1)
    expected = codec.row_identity(address, bytes(16), WriteOp.MERGE, (0, 0, 0), (1, 2, 3))
    assert head.identity(address) == expected
    assert len(POINTER_ID) == WRITE_ID_BYTES
