import io
import re
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndcass.errors import BadBody
from ndcass.server.formats.base import Layout
from ndcass.server.formats.npz import NpzDecoder, NpzEncoder
from tests.recordings import recorded, recorded_array, scenario
from tests.server.formats.bodies import Array, arrays, decoded, encoded, layout_of, numbers

BOX = numbers((2, 3, 4, 5), "<u2")


def npy(array: Array, *, version: tuple[int, int] | None = None) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, array, version=version, allow_pickle=True)
    return out.getvalue()


def npz(array: Array) -> bytes:
    return zlib.compress(npy(array))


def npz_with_header(header: str, voxels: bytes = b"") -> bytes:
    text = header.encode()
    return zlib.compress(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + voxels)


def sent(body: bytes, layout: Layout, *, step: int = 1 << 16) -> bytes:
    return decoded(NpzDecoder(layout), body, step=step)


@given(arrays(), st.integers(1, 100))
def test_numpy_reads_what_is_sent(array: Array, step: int) -> None:
    body = zlib.decompress(encoded(NpzEncoder(layout_of(array)), array, step=step))
    read = np.load(io.BytesIO(body), allow_pickle=False)
    assert read.dtype == array.dtype
    assert read.shape == array.shape
    assert read.tobytes() == array.tobytes()
    assert body[6:8] == b"\x01\x00"


@given(arrays(), st.integers(1, 100), st.sampled_from([(1, 0), (2, 0), (3, 0)]))
def test_what_numpy_sends_is_read_however_it_is_cut(
    array: Array, step: int, version: tuple[int, int]
) -> None:
    body = zlib.compress(npy(array, version=version))
    assert sent(body, layout_of(array), step=step) == array.tobytes()


@given(arrays(max_side=4))
def test_fortran_order_is_turned(array: Array) -> None:
    assert sent(npz(np.asfortranarray(array)), layout_of(array)) == array.tobytes()


def test_long_integers_of_python_2_are_read() -> None:
    header = "{'descr': '<u2', 'fortran_order': False, 'shape': (2L, 3L, 4L, 5L), }\n"
    assert sent(npz_with_header(header, BOX.tobytes()), layout_of(BOX)) == BOX.tobytes()


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (BOX[:1], "holds 1 channels (its first axis), the URL names 2"),
        (BOX[:, :2], "shape (2, 2, 4, 5), expected is (2, 3, 4, 5)"),
        (BOX[:, None], "5 axes, expected are 4"),
        (BOX[:, 0], "3 axes, expected are 4"),
        (BOX.astype(">u2"), "holds >u2 voxels, the channel is <u2"),
        (BOX.astype("<i2"), "holds <i2"),
        (BOX.astype("<u4"), "holds <u4"),
        (BOX.astype("<f2"), "holds <f2"),
        (BOX.astype(bool), "holds |b1"),
        (BOX.astype(object), "holds |O"),
        (BOX.view([("a", "u1"), ("b", "u1")]), "no plain number type"),
        (BOX.reshape(-1), "holds 120 channels"),
        (np.array(5, dtype="<u2"), "holds no channels"),
    ],
)
def test_another_array_is_refused(array: Array, words: str) -> None:
    with pytest.raises(BadBody, match=re.escape(words)):
        sent(npz(array), layout_of(BOX))


def test_int8_is_no_uint8() -> None:
    array = numbers((1, 2, 2, 2), "|u1")
    with pytest.raises(BadBody, match=r"holds \|i1 voxels, the channel is \|u1"):
        sent(npz(array.view("i1")), layout_of(array))


def test_a_time_axis_is_demanded_and_refused_by_the_layout() -> None:
    with pytest.raises(BadBody, match="4 axes, expected are 5: channel, t, z, y, x"):
        sent(npz(BOX), layout_of(BOX[:, None]))


@pytest.mark.parametrize(
    "header",
    [
        "",
        "no literal",
        "[1, 2]",
        "{'descr': '<u2'}",
        "{'descr': '<u2', 'fortran_order': False, 'shape': [2, 3, 4, 5]}",
        "{'descr': '<u2', 'fortran_order': False, 'shape': (2, 3, 4, -5)}",
        "{'descr': '<u2', 'fortran_order': False, 'shape': (2, 3, 4, True)}",
        "{'descr': '<u2', 'fortran_order': 0, 'shape': (2, 3, 4, 5)}",
        "{'descr': 2, 'fortran_order': False, 'shape': (2, 3, 4, 5)}",
        "{'descr': 'u77', 'fortran_order': False, 'shape': (2, 3, 4, 5)}",
        "{'descr': '<u2', 'fortran_order': False, 'shape': (2, 3, 4, 5), 'more': 1}",
        "{[]: 1}",
        "__import__('os').getpid()",
        "(" * 3000,
    ],
)
def test_a_senseless_header_is_refused(header: str) -> None:
    with pytest.raises(BadBody):
        sent(npz_with_header(header, BOX.tobytes()), layout_of(BOX))


def test_a_huge_header_is_refused_before_it_is_read() -> None:
    body = zlib.compress(b"\x93NUMPY\x02\x00" + (1 << 30).to_bytes(4, "little") + bytes(1 << 20))
    with pytest.raises(BadBody, match="header of 1073741824 bytes"):
        sent(body, layout_of(BOX))


@pytest.mark.parametrize("content", [b"\x93NUMPY\x04\x00", b"PK\x03\x04 an archive", b"\0" * 80])
def test_a_stream_of_something_else_is_refused(content: bytes) -> None:
    with pytest.raises(BadBody):
        sent(zlib.compress(content), layout_of(BOX))


def test_a_numpy_archive_is_refused() -> None:
    archive = io.BytesIO()
    np.savez(archive, BOX)
    with pytest.raises(BadBody, match="no zlib stream"):
        sent(archive.getvalue(), layout_of(BOX))


def test_every_truncation_is_refused() -> None:
    body = npz(BOX)
    for length in range(len(body)):
        with pytest.raises(BadBody):
            sent(body[:length], layout_of(BOX))


@pytest.mark.parametrize("length", [0, 5, 8, 60, 128, 129, 247])
def test_a_whole_stream_of_a_truncated_file_is_refused(length: int) -> None:
    with pytest.raises(BadBody, match="ends"):
        sent(zlib.compress(npy(BOX)[:length]), layout_of(BOX))


def test_trailing_bytes_are_refused_inside_and_after_the_stream() -> None:
    with pytest.raises(BadBody, match="longer than the 240 bytes"):
        sent(zlib.compress(npy(BOX) + b"\0"), layout_of(BOX))
    with pytest.raises(BadBody, match="follow the end"):
        sent(npz(BOX) + b"\0", layout_of(BOX))


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_bomb_is_refused_before_it_takes_memory(order: str) -> None:
    array = np.zeros_like(BOX, order="F" if order == "F" else "C")
    bomb = zlib.compress(npy(array) + bytes(1 << 27))
    tracemalloc.start()
    with pytest.raises(BadBody, match="longer than the 240 bytes"):
        sent(bomb, layout_of(BOX))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


def exchanges(shared: Path) -> list[tuple[str, dict[str, Any]]]:
    names = ("cutout-uint8", "cutout-time", "datatypes", "annotation-labels")
    return [
        (name, exchange)
        for name in names
        for exchange in scenario(shared, name)["exchanges"]
        if exchange.get("body", "").endswith(".npz") and exchange["status"] == 200
    ]


def test_recorded_bodies_are_read(shared: Path) -> None:
    found = exchanges(shared)
    assert len(found) > 20
    for name, exchange in found:
        body = recorded(shared, name, exchange["body"])
        array = np.load(io.BytesIO(zlib.decompress(body)), allow_pickle=False)
        assert sent(body, layout_of(array)) == array.tobytes(order="C")


def test_a_recorded_fortran_body_holds_what_the_original_stored(shared: Path) -> None:
    stored = recorded_array(shared, "cutout-uint8", "052-fortran-back.npy")
    body = recorded(shared, "cutout-uint8", "051-fortran.body.npz")
    assert b"'fortran_order': True" in zlib.decompress(body)[:128]
    assert sent(body, layout_of(stored)) == stored.tobytes()
