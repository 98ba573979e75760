import pickle
import struct
import tracemalloc
from pathlib import Path

import blosc
import numpy as np
import pytest
from hypothesis import given

from ndcass.errors import BadBody
from ndcass.server.formats.blosc import decode_blosc, encode_blosc
from tests.recordings import recorded, recorded_array, scenario, scenarios
from tests.server.formats.bodies import Array, arrays, layout_of, numbers

# The standard library warns of odd backslashes in names, which damaged pickles may have.
pytestmark = pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")

BOX = numbers((2, 3, 40, 50), "<u2")


def refused(body: bytes, words: str, *, array: Array = BOX) -> None:
    with pytest.raises(BadBody, match=words):
        decode_blosc(body, layout_of(array))


@given(arrays())
def test_what_was_sent_is_read_by_clients_and_by_us(array: Array) -> None:
    body = encode_blosc(array)
    for read in (pickle.loads(blosc.decompress(body)), decode_blosc(body, layout_of(array))):
        assert read.dtype == array.dtype
        assert read.shape == array.shape
        assert read.tobytes() == array.tobytes()


def test_python_blosc_unpacks_it() -> None:
    assert np.array_equal(blosc.unpack_array(encode_blosc(BOX)), BOX)


@given(arrays())
def test_what_python_blosc_packs_is_read(array: Array) -> None:
    assert decode_blosc(blosc.pack_array(array), layout_of(array)).tobytes() == array.tobytes()


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("byte", [0, 10, 92, 255])
def test_a_pickle_is_read_however_long_its_protocol_spells_voxels(byte: int, protocol: int) -> None:
    array = np.full((1, 4, 64, 64), byte, dtype=np.uint8)
    body = blosc.compress(pickle.dumps(array, protocol), typesize=1)
    assert np.array_equal(decode_blosc(body, layout_of(array)), array)


def test_the_frame_is_of_blosc_1_with_blosclz_and_shuffle() -> None:
    body = encode_blosc(np.zeros((1, 8, 64, 64), dtype="<u4"))
    version, _, flags, typesize = body[:4]
    assert version == 2
    assert flags & 1
    assert flags >> 5 == 0
    assert typesize == 4


def test_several_kinds_of_bodies_are_read() -> None:
    for body in (bytearray(encode_blosc(BOX)), memoryview(encode_blosc(BOX))):
        assert np.array_equal(decode_blosc(body, layout_of(BOX)), BOX)


def test_every_truncation_is_refused() -> None:
    body = encode_blosc(BOX[:, :1, :2, :2])
    for length in range(len(body)):
        refused(body[:length], ".", array=BOX[:, :1, :2, :2])


def test_trailing_bytes_are_refused() -> None:
    refused(encode_blosc(BOX) + b"\0", "announces")


def test_another_version_is_refused() -> None:
    body = bytearray(encode_blosc(BOX))
    body[0] = 3
    refused(bytes(body), "no Blosc-1 frame: version 3")


def test_other_bytes_are_refused() -> None:
    refused(b"", "0 bytes")
    refused(b"\x02" + bytes(99), "announces 0 bytes")
    refused(pickle.dumps(BOX), "version 128")


@pytest.mark.parametrize("place", range(16, 200, 7))
def test_a_damaged_frame_is_refused_or_read_as_such_an_array(place: int) -> None:
    array = np.zeros((1, 4, 64, 64), dtype="<u4")
    array[0, :, 3] = 5
    body = bytearray(encode_blosc(array))
    body[place] ^= 0x55
    try:
        read = decode_blosc(bytes(body), layout_of(array))
    except BadBody:
        return
    assert read.shape == array.shape


def test_a_bomb_is_refused_by_its_header() -> None:
    bomb = blosc.compress(bytes(1 << 27), typesize=1)
    assert len(bomb) < 1 << 22
    tracemalloc.start()
    refused(bomb, "announces 134217728 bytes, the box needs 24000 and its pickle at most 152192")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 16


def test_a_bomb_that_lies_about_its_size_is_refused() -> None:
    bomb = bytearray(blosc.compress(bytes(1 << 24), typesize=1))
    struct.pack_into("<I", bomb, 4, 20_000)
    refused(bytes(bomb), ".")


def test_an_array_that_is_larger_than_it_may_be_is_refused() -> None:
    refused(blosc.pack_array(np.zeros((2, 3, 40, 60), dtype="<u2")), "shape")
    refused(blosc.pack_array(np.zeros((2, 3, 1200, 60), dtype="<u2")), "announces")
    large = np.zeros((1, 8, 1024, 1024), dtype=np.uint8)
    refused(
        blosc.pack_array(np.zeros((3, 8, 1024, 1024), dtype=np.uint8)), "announces", array=large
    )


def test_a_pickle_that_is_no_array_is_refused() -> None:
    refused(blosc.compress(pickle.dumps({"a": 1}), typesize=1), "no plain ndarray")


def test_recorded_frames_of_python_2_hold_the_recorded_arrays(shared: Path) -> None:
    found = 0
    for folder in scenarios(shared):
        for exchange in scenario(shared, folder)["exchanges"]:
            if "recorded_body" in exchange and exchange["compare"] == "blosc":
                expected = recorded_array(shared, folder, exchange["expected"])
                body = recorded(shared, folder, exchange["recorded_body"])
                read = decode_blosc(body, layout_of(expected))
                assert np.array_equal(read, expected, equal_nan=expected.dtype.kind == "f")
                found += 1
    assert found > 10


@pytest.mark.parametrize(
    ("scenario_name", "posted", "stored"),
    [
        ("datatypes", "007-post-w16-blosc.body.blosc", "008-w16-npz.npy.gz"),
        ("datatypes", "025-post-i8-blosc.body.blosc", "026-i8-npz.npy"),
        ("datatypes", "043-post-lab-blosc.body.blosc", "044-lab-npz.npy.gz"),
    ],
)
def test_recorded_posts_hold_what_the_original_stored(
    shared: Path, scenario_name: str, posted: str, stored: str
) -> None:
    expected = recorded_array(shared, scenario_name, stored)
    read = decode_blosc(recorded(shared, scenario_name, posted), layout_of(expected))
    assert np.array_equal(read, expected)


@pytest.mark.parametrize(
    "name", ["032-post-blosc-shape", "033-post-blosc-dtype", "034-post-blosc-rank"]
)
def test_posts_that_the_original_refused_are_refused(shared: Path, name: str) -> None:
    box = np.zeros((1, 4, 18, 20), dtype=np.uint8)
    refused(recorded(shared, "errors", f"{name}.body.blosc"), ".", array=box)
