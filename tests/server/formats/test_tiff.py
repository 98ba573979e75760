"""TIFF: what is sent, read by others; what others write, read here."""

import contextlib
import io
import itertools
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image, TiffImagePlugin

from ndcass.errors import BadBody, InvalidRequest, TooLarge
from ndcass.server.formats.base import Layout, as_voxels
from ndcass.server.formats.tiff import DIRECTORY_BYTES, HEADER, TiffEncoder, open_tiff, read_page

DTYPES = st.sampled_from(["u1", "<u2", "<u4", "<u8", "i1", "<i2", "<i4", "<f4", "<f8"])
MOST = 100
SHAPES = npst.array_shapes(min_dims=4, max_dims=4, max_side=5)


def layout(shape: tuple[int, ...], dtype: Any, *, has_time: bool = False) -> Layout:
    count = shape[0]
    names = tuple("abcdefgh"[:count])
    return Layout(names, ("image",) * count, ("",) * count, shape, np.dtype(dtype), has_time)


def encoded(voxels: npt.NDArray[Any], cuts: list[int]) -> bytes:
    encoder = TiffEncoder(layout(voxels.shape, voxels.dtype))
    view = as_voxels(np.ascontiguousarray(voxels))
    edges = sorted({0, len(view), *(cut % len(view) for cut in cuts)})
    pieces = [encoder.piece(view[a:b]) for a, b in itertools.pairwise(edges)]
    body = b"".join((encoder.head(), *pieces, encoder.tail()))
    assert len(body) == encoder.length
    return body


@given(npst.arrays(DTYPES, SHAPES), st.lists(st.integers(1, 1000), max_size=5))
def test_pages_come_back_however_the_voxels_came(voxels: Any, cuts: list[int]) -> None:
    with tifffile.TiffFile(io.BytesIO(encoded(voxels, cuts))) as file:
        pages = np.stack([page.asarray() for page in file.pages])
    assert pages.dtype == voxels.dtype
    assert np.array_equal(pages, voxels.reshape(pages.shape), equal_nan=voxels.dtype.kind == "f")


def test_every_page_says_what_its_samples_are() -> None:
    body = encoded(np.zeros((1, 3, 2, 5), "<f4"), [])
    with tifffile.TiffFile(io.BytesIO(body)) as file:
        assert file.byteorder == "<"
        assert not file.is_bigtiff
        for page in file.pages:
            tags = page.aspage().tags
            assert (tags["BitsPerSample"].value, tags["SampleFormat"].value) == (32, 3)
            assert tags["PhotometricInterpretation"].value == 1
            assert tags["Compression"].value == 1


def test_directories_begin_at_even_offsets() -> None:
    body = encoded(np.ones((1, 3, 1, 5), "u1"), [])  # pages of 5 bytes
    at, offsets = struct.unpack_from("<I", body, 4)[0], []
    while at:
        offsets.append(at)
        count = struct.unpack_from("<H", body, at)[0]
        at = struct.unpack_from("<I", body, at + 2 + 12 * count)[0]
    assert len(offsets) == 3
    assert not any(offset % 2 for offset in offsets)


def test_a_time_axis_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="no time axis"):
        TiffEncoder(layout((1, 2, 1, 2, 3), "u1", has_time=True))


def test_more_than_offsets_can_name_is_refused() -> None:
    with pytest.raises(TooLarge):
        TiffEncoder(layout((1, 4, 1 << 15, 1 << 15), "u1"))


# -- read


def pages_of(body: bytes) -> npt.NDArray[Any]:
    stack = open_tiff(memoryview(body), most_pages=MOST)
    out = np.empty(stack.shape_zyx, dtype=stack.dtype)
    for number in range(stack.pages):
        read_page(stack, number, out[number])
    return out


def noise(dtype: str, shape: tuple[int, ...] = (3, 4, 5)) -> npt.NDArray[Any]:
    most = np.iinfo(dtype).max
    return np.random.default_rng(1).integers(0, most, shape, dtype=np.dtype(dtype), endpoint=True)


@pytest.mark.parametrize(
    ("dtype", "byteorder"),
    [("uint8", "<"), ("uint8", ">"), ("uint16", "<"), ("uint16", ">"), ("uint32", "<")],
)
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_what_tifffile_writes_is_read(dtype: str, byteorder: Any, compression: str | None) -> None:
    voxels = noise(dtype)
    stream = io.BytesIO()
    tifffile.imwrite(
        stream, voxels, byteorder=byteorder, photometric="minisblack", compression=compression
    )
    found = pages_of(stream.getvalue())
    assert found.dtype.str == np.dtype(dtype).newbyteorder("<").str
    assert np.array_equal(found, voxels)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "packbits", "tiff_adobe_deflate"])
def test_what_pillow_writes_is_read(compression: str) -> None:
    voxels = noise("uint8")
    first, *rest = (Image.fromarray(page) for page in voxels)
    stream = io.BytesIO()
    first.save(stream, "TIFF", compression=compression, save_all=True, append_images=rest)
    assert np.array_equal(pages_of(stream.getvalue()), voxels)


def test_what_is_sent_is_read() -> None:
    voxels = noise("uint32", (1, 3, 4, 5)).astype("<u4")
    assert np.array_equal(pages_of(encoded(voxels, [])), voxels[0])


@pytest.mark.parametrize(
    ("voxels", "options"),
    [
        (np.zeros((2, 3, 7), "<f4"), {}),
        (np.zeros((2, 3, 7), "<i2"), {}),
        (np.zeros((2, 3, 4), "bool"), {}),
        (np.zeros((3, 4, 3), "u1"), {"photometric": "rgb"}),
        (np.zeros((2, 3, 4), "u1"), {"photometric": "miniswhite"}),
    ],
)
def test_pages_that_are_no_plain_numbers_are_refused(
    voxels: npt.NDArray[Any], options: dict[str, Any]
) -> None:
    stream = io.BytesIO()
    tifffile.imwrite(stream, voxels, **options)
    with pytest.raises(BadBody):
        open_tiff(memoryview(stream.getvalue()), most_pages=MOST)


def test_numbers_that_pillow_does_not_know_are_refused() -> None:
    stream = io.BytesIO()
    tifffile.imwrite(stream, noise("uint32"), byteorder=">", photometric="minisblack")
    with pytest.raises(BadBody, match="no TIFF that can be read"):
        open_tiff(memoryview(stream.getvalue()), most_pages=MOST)


def test_a_page_unlike_the_first_is_refused() -> None:
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as file:
        for shape in ((4, 5), (5, 4)):
            file.write(np.zeros(shape, "u1"), photometric="minisblack")
    stack = open_tiff(memoryview(stream.getvalue()), most_pages=MOST)
    out = np.empty((4, 5), "u1")
    read_page(stack, 0, out)
    with pytest.raises(BadBody, match="page 1"):
        read_page(stack, 1, out)


@pytest.mark.parametrize("options", [{}, {"bigtiff": True}, {"byteorder": ">"}])
def test_as_many_pages_as_fit_are_read(options: dict[str, Any]) -> None:
    stream = io.BytesIO()
    tifffile.imwrite(stream, noise("uint8", (5, 4, 3)), photometric="minisblack", **options)
    body = memoryview(stream.getvalue())
    assert open_tiff(body, most_pages=5).pages == 5
    with pytest.raises(InvalidRequest, match="more pages than the 4 that fit"):
        open_tiff(body, most_pages=4)


def test_no_page_behind_the_first_too_many_is_visited() -> None:
    """What is there is no directory: who went on would call the file damaged."""
    body = bytearray(encoded(np.zeros((1, 30_000, 1, 1), "u1"), []))
    stride = DIRECTORY_BYTES + 2
    assert open_tiff(memoryview(body), most_pages=30_000).pages == 30_000
    body[HEADER.size + 12 * stride :] = b""
    with pytest.raises(InvalidRequest, match="more pages than the 11 that fit"):
        open_tiff(memoryview(body), most_pages=11)
    with pytest.raises(BadBody, match="no TIFF that can be read"):
        open_tiff(memoryview(body), most_pages=13)


def test_of_many_pages_only_the_first_is_parsed_to_count_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parsed = []
    load = TiffImagePlugin.ImageFileDirectory_v2.load

    def counted(directory: Any, file: Any) -> None:
        parsed.append(directory)
        load(directory, file)

    monkeypatch.setattr(TiffImagePlugin.ImageFileDirectory_v2, "load", counted)
    body = encoded(np.zeros((1, 500, 1, 1), "u1"), [])
    assert open_tiff(memoryview(body), most_pages=500).pages == 500
    assert len(parsed) <= 2


@pytest.mark.parametrize("back_to", [0, 1, 2])
def test_pages_that_go_round_in_a_circle_are_refused(back_to: int) -> None:
    body = bytearray(encoded(np.zeros((1, 3, 2, 2), "u1"), []))
    stride = DIRECTORY_BYTES + 4
    last = HEADER.size + 2 * stride
    struct.pack_into("<I", body, last + DIRECTORY_BYTES - 4, HEADER.size + back_to * stride)
    with pytest.raises(BadBody, match="circle"):
        open_tiff(memoryview(body), most_pages=MOST)


@given(st.binary(max_size=300), st.integers(0, 400), st.booleans())
def test_damage_is_refused_or_read_never_worse(junk: bytes, at: int, cut: bool) -> None:
    body = bytearray(encoded(noise("uint8", (1, 2, 6, 7)), []))
    body[at : at + len(junk)] = junk
    sent = bytes(body[: len(body) // 2] if cut else body)
    with contextlib.suppress(BadBody):
        pages_of(sent[:4000])
