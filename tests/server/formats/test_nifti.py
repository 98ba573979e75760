"""NIfTI files that nibabel writes are read, and nibabel reads what is sent."""

import gzip
import io
import itertools
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndcass.errors import BadBody, InvalidRequest, TooLarge
from ndcass.server.formats import nifti
from ndcass.server.formats.nifti import Colour, Header, NiftiDecoder, NiftiEncoder

Array = npt.NDArray[Any]

AFFINE = np.array([[-2.0, 0, 0, 90], [0, 2, 0.5, -126], [0, 0, 2, -72], [0, 0, 0, 1]])
RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])


def file_of(voxels_xyz: Array, *, big_endian: bool = False, **fields: Any) -> bytes:
    image_type: Any = nibabel.Nifti1Image
    header_type: Any = nibabel.Nifti1Header
    header = header_type(endianness=">" if big_endian else "<")
    header.set_data_dtype(voxels_xyz.dtype)
    image = image_type(voxels_xyz, AFFINE, header)
    for name, value in fields.items():
        image.header[name] = value
    return bytes(image.to_bytes())


def header_of(body: bytes) -> Header:
    return nifti.parse_header(body[: nifti.HEADER_BYTES])


def decoded(
    body: bytes, dtype: Any, *, in_colour: bool = False, cuts: tuple[int, ...] = ()
) -> Array:
    decoder = NiftiDecoder(lambda header: (np.dtype(dtype), header.colour_for(in_colour=in_colour)))
    edges = sorted({0, len(body), *(cut % (len(body) + 1) for cut in cuts)})
    pieces = []
    for a, b in itertools.pairwise(edges):
        pieces += [bytes(piece) for piece in decoder.feed(body[a:b])]
    pieces += [bytes(piece) for piece in decoder.finish()]
    return np.frombuffer(b"".join(pieces), dtype)


def noise(dtype: str, shape: tuple[int, ...] = (4, 3, 2, 5)) -> Array:
    voxels: Array = np.random.default_rng(2).integers(0, 100, shape).astype(dtype)
    return voxels


@pytest.mark.parametrize("dtype", ["<u1", "<i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<f4", "<f8"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("big_endian", [False, True])
def test_voxels_come_out_with_t_slowest_and_x_fastest(
    dtype: str, packed: bool, big_endian: bool
) -> None:
    voxels = noise(dtype)
    body = file_of(voxels, big_endian=big_endian)
    found = decoded(gzip.compress(body, mtime=0) if packed else body, dtype)
    assert np.array_equal(found.reshape(5, 2, 3, 4), voxels.T)


@given(st.lists(st.integers(0, 2000), max_size=8), st.booleans())
def test_a_file_may_come_in_any_pieces(cuts: list[int], packed: bool) -> None:
    voxels = noise("<i2")
    body = gzip.compress(file_of(voxels), mtime=0) if packed else file_of(voxels)
    found = decoded(body, "<u2", cuts=tuple(cuts))
    assert np.array_equal(found.reshape(5, 2, 3, 4), voxels.T)


def test_scaled_values_are_what_they_mean() -> None:
    body = file_of(noise("<i2"), scl_slope=0.5, scl_inter=3.0)
    assert np.array_equal(decoded(body, "<f4"), noise("<i2").T.ravel() * 0.5 + 3)


def test_fractions_are_cut_off_where_a_channel_has_none() -> None:
    assert decoded(file_of(np.full((1, 1, 2), 3.7, "f4")), "u1").tolist() == [3, 3]


@pytest.mark.parametrize(
    ("value", "sent", "channel"),
    [
        (-1, "<i2", "u1"),
        (256, "<i2", "u1"),
        (256.0, "<f4", "u1"),
        (np.nan, "<f4", "u1"),
        (np.inf, "<f8", "<u4"),
        (2.0**64, "<f8", "<u8"),
        (1 << 63, "<u8", "<i8"),
    ],
)
def test_values_that_a_channel_cannot_hold_are_refused(
    value: float, sent: str, channel: str
) -> None:
    with pytest.raises(BadBody, match="holds"):
        decoded(file_of(np.full((1, 1, 2), value, sent)), channel)


def test_the_greatest_values_are_held() -> None:
    assert decoded(file_of(np.full((1, 1, 1), 255.9, "f4")), "u1").tolist() == [255]
    assert decoded(file_of(np.full((1, 1, 1), (1 << 64) - 1, "u8")), "<u8")[0] == (1 << 64) - 1


def test_colours_of_a_voxel_are_packed_red_lowest() -> None:
    voxels = np.zeros((2, 1, 1), RGB)
    voxels[0, 0, 0], voxels[1, 0, 0] = (1, 2, 3), (250, 0, 4)
    found = decoded(file_of(voxels), "<u4", in_colour=True, cuts=(353, 354, 356))
    assert found.tolist() == [0xFF030201, 0xFF0400FA]


@given(st.lists(st.integers(0, 600), max_size=5))
def test_colours_in_three_volumes_are_packed_red_lowest(cuts: list[int]) -> None:
    voxels = noise("u1", (4, 3, 2, 3))
    found = decoded(file_of(voxels), "<u4", in_colour=True, cuts=tuple(cuts)).reshape(2, 3, 4)
    red, green, blue = voxels.T.astype("<u4")
    assert np.array_equal(found, red | green << 8 | blue << 16 | 0xFF << 24)


def test_three_volumes_of_other_numbers_are_a_series() -> None:
    for dtype, in_colour in (("<u2", True), ("u1", False)):
        header = header_of(file_of(noise(dtype, (4, 3, 2, 3))))
        assert header.colour_for(in_colour=in_colour) is Colour.NONE


def test_colours_go_nowhere_else() -> None:
    with pytest.raises(InvalidRequest, match="colours"):
        header_of(file_of(np.zeros((2, 1, 1), RGB))).colour_for(in_colour=False)


def with_bytes(body: bytes, at: int, by: bytes) -> bytes:
    return body[:at] + by + body[at + len(by) :]


PLAIN = file_of(noise("u1"))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x1f\x8b",
        bytes(400),
        PLAIN[:200],
        gzip.compress(PLAIN, mtime=0)[:60],
        gzip.compress(PLAIN[:300], mtime=0),
        PLAIN[:-1],
        gzip.compress(PLAIN, mtime=0)[:-9],
        gzip.compress(PLAIN, mtime=0) + b"more",
        PLAIN + bytes(nifti.MAX_TRAILING_BYTES + 1),
        with_bytes(PLAIN, 344, b"ni1\0"),
        with_bytes(PLAIN, 40, b"\x02\0"),  # two axes
        with_bytes(PLAIN, 42, b"\xff\xff"),  # a negative one
        with_bytes(PLAIN, 70, b"\x20\0"),  # complex numbers
        with_bytes(PLAIN, 108, np.float32(5).tobytes()),
        with_bytes(PLAIN, 108, np.float32(np.nan).tobytes()),
        b"\x89PNG\r\n\x1a\n" + bytes(400),
    ],
)
def test_what_is_no_whole_file_is_refused(body: bytes) -> None:
    with pytest.raises(BadBody):
        decoded(body, "u1")


@given(st.binary(min_size=1, max_size=40), st.integers(0, 360))
def test_a_damaged_header_is_refused_or_read_never_worse(junk: bytes, at: int) -> None:
    decoder = NiftiDecoder(lambda header: (np.dtype("u1"), Colour.NONE))
    try:
        for _ in decoder.feed(with_bytes(PLAIN, at, junk)):
            pass
        list(decoder.finish())
    except BadBody:
        pass


def test_a_file_of_another_size_is_refused() -> None:
    header = header_of(PLAIN)  # 4 x 3 x 2, 5 timesteps
    nifti.check_fits(header, (2, 3, 4), 5)
    nifti.check_fits(header, (2, 3, 4), None)
    for size, timesteps in (((4, 3, 2), 5), ((2, 3, 5), 5), ((2, 3, 4), 4)):
        with pytest.raises(InvalidRequest):
            nifti.check_fits(header, size, timesteps)


# -- sent


def sent(
    voxels: Array, kept: Header, *, timesteps: int, fits: bool = True, in_colour: bool = False
) -> Any:
    """What nibabel makes of the file of some voxels, order t, z, y, x."""
    form = nifti.form_of(
        kept, voxels.shape[1:], voxels.dtype, timesteps, fits=fits, in_colour=in_colour
    )
    encoder = NiftiEncoder(form, voxels.size, voxels.dtype)
    pieces: list[bytes | memoryview] = [encoder.head()]
    for _ in nifti.passes(form):
        planes = (np.ascontiguousarray(p) for p in voxels.reshape(-1, *voxels.shape[2:]))
        pieces += [encoder.piece(plane.data.cast("B")) for plane in planes]
    image_type: Any = nibabel.Nifti1Image
    return image_type.from_bytes(b"".join(pieces))


@pytest.mark.parametrize("dtype", ["u1", "<u2", "<i2", "<f4", "<u8"])
def test_what_came_goes_out_with_its_header(dtype: str) -> None:
    voxels = noise(dtype)
    kept = header_of(file_of(voxels, big_endian=True, descrip=b"a mouse", intent_code=1002))
    image = sent(voxels.T, kept, timesteps=5)
    assert np.array_equal(np.asarray(image.dataobj), voxels)
    assert image.get_data_dtype() == np.dtype(dtype)
    assert np.array_equal(image.affine, AFFINE)
    assert bytes(image.header["descrip"]).rstrip(b"\0") == b"a mouse"
    assert int(image.header["intent_code"]) == 1002


def test_three_axes_stay_three_and_four_stay_four() -> None:
    voxels = noise("u1", (4, 3, 2))
    assert sent(voxels.T[np.newaxis], header_of(file_of(voxels)), timesteps=1).shape == (4, 3, 2)
    four = header_of(file_of(voxels[..., np.newaxis]))
    assert sent(voxels.T[np.newaxis], four, timesteps=1).shape == (4, 3, 2, 1)


def test_numbers_have_the_type_of_the_header_where_they_fit() -> None:
    voxels = noise("<u2")
    kept = header_of(file_of(voxels.astype("<i2")))
    assert sent(voxels.T, kept, timesteps=5).get_data_dtype() == np.int16
    assert sent(voxels.T, kept, timesteps=5, fits=False).get_data_dtype() == np.uint16


def test_a_scale_is_not_applied_twice() -> None:
    kept = header_of(file_of(noise("<i2"), scl_slope=0.5, scl_inter=3.0))
    values = noise("<i2").T * np.float32(0.5) + np.float32(3)
    image = sent(values, kept, timesteps=5, fits=False)
    assert np.array_equal(image.get_fdata(), values.T)


def test_colours_go_out_as_they_came() -> None:
    packed = (noise("<u4", (1, 2, 3, 4)) * 0x010203) | np.uint32(0xFF << 24)
    bytes_of = packed.view("u1").reshape(2, 3, 4, 4)[..., :3]
    volumes = header_of(file_of(np.zeros((4, 3, 2, 3), "u1")))
    image = sent(packed, volumes, timesteps=1, in_colour=True)
    assert np.array_equal(np.asarray(image.dataobj), bytes_of.transpose(2, 1, 0, 3))
    pixels = header_of(file_of(np.zeros((4, 3, 2), RGB)))
    image = sent(packed, pixels, timesteps=1, in_colour=True)
    found = np.asarray(image.dataobj)
    assert np.array_equal(
        np.stack([found[name] for name in "RGB"], axis=-1), bytes_of.transpose(2, 1, 0, 3)
    )


def test_a_made_header_has_the_size_of_a_voxel() -> None:
    kept = nifti.made_header((2, 3, 4), (30.0, 4.0, 5.0), np.dtype("<u2"), 1)
    image = sent(noise("<u2", (1, 2, 3, 4)), kept, timesteps=1)
    assert image.shape == (4, 3, 2)
    assert np.array_equal(image.affine, np.diag([5.0, 4.0, 30.0, 1.0]))
    assert image.header.get_zooms() == (5.0, 4.0, 30.0)


def test_an_axis_that_the_header_cannot_say_is_refused() -> None:
    kept = header_of(PLAIN)
    with pytest.raises(TooLarge, match="32767"):
        nifti.form_of(kept, (1, 1, 1 << 15), np.dtype("u1"), 1, fits=True, in_colour=False)


def test_a_header_that_was_kept_is_read_again() -> None:
    kept = header_of(PLAIN)
    again = nifti.parse_header(bytes(kept.block.binaryblock))
    assert (again.shape, again.dtype, again.scale) == (kept.shape, kept.dtype, None)
    assert io.BytesIO(bytes(again.block.binaryblock)).read(4) == b"\x5c\x01\0\0"
