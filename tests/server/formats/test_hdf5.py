import io
import os
import tracemalloc
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndcass.errors import BadBody
from ndcass.server.formats.base import Layout
from ndcass.server.formats.hdf5 import (
    decode_hdf5,
    encode_hdf5,
    fletcher32,
    new_file,
    open_copy,
)
from tests.recordings import recorded, recorded_array, scenario
from tests.server.formats.bodies import TYPES, Array, arrays, layout_of, numbers

BOX = numbers((3, 40, 50), "<u2")


def layout(array: Array) -> Layout:
    """The layout of one channel, without its axis."""
    return layout_of(array[None])


def file_of(build: Callable[[h5py.File], object], **options: Any) -> bytes:
    out = io.BytesIO()
    with h5py.File(out, "w", **options) as file:
        build(file)
    return out.getvalue()


def file_with(array: Array, **options: Any) -> bytes:
    """A body of one channel `a`, as clients make it."""
    return file_of(lambda file: file.create_dataset("a/CUTOUT", data=array, **options))


def sent(body: bytes, array: Array = BOX) -> Array:
    (read,) = decode_hdf5(body, layout(array), names=["a"])
    return read


def refused(body: bytes, words: str, array: Array = BOX) -> None:
    with pytest.raises(BadBody, match=words):
        sent(body, array)


@given(arrays(max_side=5))
def test_h5py_reads_what_is_sent(array: Array) -> None:
    form = layout_of(array)
    body = encode_hdf5(form, list(array))
    with h5py.File(io.BytesIO(body)) as file:
        assert sorted(file) == sorted(form.channels)
        assert not file.attrs
        for name, voxels in zip(form.channels, array, strict=True):
            assert sorted(file[name]) == ["CHANNELTYPE", "CUTOUT", "DATATYPE"]
            dataset = file[name]["CUTOUT"]
            assert dataset.dtype == array.dtype
            assert dataset.shape == voxels.shape
            assert dataset.compression == "gzip"
            assert dataset[...].tobytes() == voxels.tobytes()
            assert file[name]["CHANNELTYPE"].asstr()[...].tolist() == ["image"]
            assert file[name]["DATATYPE"].asstr()[...].tolist() == [array.dtype.name]


def test_the_file_is_of_the_oldest_format_with_variable_ascii_strings() -> None:
    body = encode_hdf5(layout(BOX), [BOX])
    assert body[8] == 0
    with h5py.File(io.BytesIO(body)) as file:
        for name in ("CHANNELTYPE", "DATATYPE"):
            dataset = file["channel0"][name]
            assert dataset.shape == (1,)
            assert h5py.check_string_dtype(dataset.dtype) == ("ascii", None)


@given(arrays(max_side=5))
def test_what_was_sent_is_read(array: Array) -> None:
    form = layout_of(array)
    read = decode_hdf5(encode_hdf5(form, list(array)), form, names=form.channels)
    assert [voxels.tobytes() for voxels in read] == [voxels.tobytes() for voxels in array]
    assert all(voxels.dtype == array.dtype and voxels.shape == array.shape[1:] for voxels in read)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(17, 130, 129), (2, 17, 130, 129), (1, 1, 300)])
def test_boxes_of_several_chunks_come_back(shape: tuple[int, ...], dtype: str) -> None:
    array = numbers(shape, dtype)
    array[..., :100] = 0
    body = encode_hdf5(layout(array), [array])
    with h5py.File(io.BytesIO(body)) as file:
        assert file["channel0/CUTOUT"][...].tobytes() == array.tobytes()
    (read,) = decode_hdf5(body, layout(array), names=["channel0"])
    assert read.tobytes() == array.tobytes()


def test_channels_may_differ_in_type_and_repeat() -> None:
    small = BOX.astype("|u1")
    form = Layout(
        channels=("a", "b", "a"),
        channel_types=("image", "annotation", "image"),
        datatypes=("uint16", "uint8", "uint16"),
        shape=(3, *BOX.shape),
        dtype=BOX.dtype,
        has_time=False,
    )
    body = encode_hdf5(form, [BOX, small, BOX])
    read = decode_hdf5(body, form, names=form.channels)
    assert [voxels.dtype.name for voxels in read] == ["uint16", "uint8", "uint16"]
    assert all(np.array_equal(*pair) for pair in zip(read, [BOX, small, BOX], strict=True))


def test_noise_hardly_grows_and_labels_shrink() -> None:
    noise = numbers((16, 256, 256))
    assert len(encode_hdf5(layout(noise), [noise])) < noise.nbytes * 1.05
    assert len(encode_hdf5(layout(noise), [noise * 0])) < noise.nbytes * 0.05


@pytest.mark.parametrize("array", [BOX, numbers((17, 130, 129), "<u4")], ids=["small", "large"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chunks": True},
        {"chunks": (2, 7, 50)},
        {"compression": "gzip"},
        {"compression": "gzip", "shuffle": True},
        {"compression": "gzip", "shuffle": True, "fletcher32": True},
        {"compression": "gzip", "maxshape": (None, None, None)},
        {"compression": "lzf"},
        {"compression": "lzf", "shuffle": True, "fletcher32": True},
        {"fletcher32": True},
        {"shuffle": True},
    ],
    ids=str,
)
def test_every_usual_storage_is_read(options: dict[str, Any], array: Array) -> None:
    assert sent(file_with(array, **options), array).tobytes() == array.tobytes()


def test_chunks_that_were_never_written_are_the_fill_value() -> None:
    def build(file: h5py.File) -> None:
        dataset = file.create_dataset(
            "a/CUTOUT", BOX.shape, "<u2", chunks=(1, 20, 50), compression="gzip", fillvalue=7
        )
        dataset[1] = BOX[1]

    read = sent(file_of(build))
    assert (read[[0, 2]] == 7).all()
    assert np.array_equal(read[1], BOX[1])


@pytest.mark.parametrize("libver", ["earliest", "v110", "latest"])
def test_newer_formats_are_read(libver: str) -> None:
    body = file_of(
        lambda file: file.create_dataset("a/CUTOUT", data=BOX, chunks=(2, 9, 9)), libver=libver
    )
    assert np.array_equal(sent(body), BOX)


@pytest.mark.parametrize(
    "text", [None, "uint8", b"image", np.bytes_(b"x"), ["uint16"], [b"a", b"b"], 5]
)
def test_type_strings_may_be_anything_or_absent(text: Any) -> None:
    def build(file: h5py.File) -> None:
        file.create_dataset("a/CUTOUT", data=BOX)
        if text is not None:
            file.create_dataset("a/DATATYPE", data=text)
            file.create_dataset("a/CHANNELTYPE", data=text)

    assert np.array_equal(sent(file_of(build)), BOX)


def test_other_groups_and_datasets_are_ignored() -> None:
    def build(file: h5py.File) -> None:
        file.create_dataset("a/CUTOUT", data=BOX)
        file.create_dataset("a/RESOLUTION", data=0)
        file.create_dataset("a/XYZOFFSET", data=[1, 2, 3])
        file.create_dataset("b/CUTOUT", data=BOX * 2)
        file["c"] = h5py.ExternalLink("elsewhere.h5", "/")

    assert np.array_equal(sent(file_of(build)), BOX)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (BOX[:2], r"CUTOUT of a has the shape \(2, 40, 50\), expected is \(3, 40, 50\)"),
        (BOX[None], r"shape \(1, 3, 40, 50\)"),
        (BOX[0], r"shape \(40, 50\)"),
        (BOX.astype(">u2"), "holds >u2 voxels, the channel is <u2"),
        (BOX.astype("<i2"), "holds <i2"),
        (BOX.astype("<u4"), "holds <u4"),
        (BOX.astype("<f4"), "holds <f4"),
        (BOX.astype(bool), r"holds \|b1"),
        (BOX.view([("a", "u1"), ("b", "u1")]), "holds"),
        (np.array("text", dtype=h5py.string_dtype()), "holds"),
    ],
)
def test_another_array_is_refused(array: Array, words: str) -> None:
    refused(file_with(array), words)


def test_an_enumeration_is_no_integer() -> None:
    kind = h5py.enum_dtype({"off": 0, "on": 1}, basetype="<u2")
    refused(
        file_of(lambda file: file.create_dataset("a/CUTOUT", BOX.shape, kind)), "the channel is <u2"
    )


def test_a_missing_channel_is_named() -> None:
    refused(file_of(lambda file: file.create_dataset("b/CUTOUT", data=BOX)), "channel a is not in")
    refused(file_of(lambda file: file.create_group("a")), "CUTOUT of a is not in")
    refused(file_of(lambda file: file.create_dataset("a", data=BOX)), "a in the HDF5 file is no")
    refused(file_of(lambda file: file.create_group("a/CUTOUT")), "CUTOUT of a in .* no dataset")


def test_a_dataset_without_extent_is_refused() -> None:
    refused(file_of(lambda f: f.create_dataset("a/CUTOUT", data=h5py.Empty("<u2"))), "shape")


def link_to(kind: str, outside: Path) -> Callable[[h5py.File], None]:
    def build(file: h5py.File) -> None:
        if kind == "external group":
            file["a"] = h5py.ExternalLink(str(outside), "/a")
        elif kind == "soft group":
            file.create_dataset("b/CUTOUT", data=BOX)
            file["a"] = h5py.SoftLink("/b")
        elif kind == "external dataset":
            file.create_group("a")["CUTOUT"] = h5py.ExternalLink(str(outside), "/a/CUTOUT")
        else:
            file["x"] = BOX
            file.create_group("a")["CUTOUT"] = h5py.SoftLink("/x")

    return build


@pytest.mark.parametrize(
    "kind", ["external group", "soft group", "external dataset", "soft dataset"]
)
def test_links_are_not_followed(kind: str, tmp_path: Path) -> None:
    outside = tmp_path / "outside.h5"
    outside.write_bytes(file_with(BOX))
    refused(file_of(link_to(kind, outside)), "is a link")


def test_external_storage_is_not_read(tmp_path: Path) -> None:
    outside = tmp_path / "secret"
    outside.write_bytes(BOX.tobytes())
    path = tmp_path / "body.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("a/CUTOUT", BOX.shape, "<u2", external=[(str(outside), 0, BOX.nbytes)])
        assert np.array_equal(file["a/CUTOUT"][...], BOX)
    refused(path.read_bytes(), "outside of the body")


def test_virtual_datasets_are_not_read(tmp_path: Path) -> None:
    outside = tmp_path / "outside.h5"
    outside.write_bytes(file_with(BOX))
    virtual = h5py.VirtualLayout(BOX.shape, "<u2")
    virtual[:] = h5py.VirtualSource(str(outside), "a/CUTOUT", BOX.shape)
    body = file_of(lambda file: file.create_virtual_dataset("a/CUTOUT", virtual))
    refused(body, "outside of the body")


def test_other_filters_are_refused() -> None:
    refused(file_with(BOX, scaleoffset=4), "HDF5 filter 6")


@pytest.mark.parametrize("step", [1, 97])
def test_every_truncation_is_refused(step: int) -> None:
    array = BOX[:1, :3, :4]
    body = file_with(array, compression="gzip")
    lengths = range(0, len(body), 97) if step == 97 else range(len(body) - 60, len(body))
    for length in lengths:
        refused(body[:length], ".", array)


@pytest.mark.parametrize("body", [b"", b"no file", b"\x89HDF\r\n\x1a\n", bytes(4096)])
def test_other_bytes_are_refused(body: bytes) -> None:
    refused(body, "damaged")


@given(st.data())
def test_a_damaged_file_is_refused_or_read_as_such_an_array(data: st.DataObject) -> None:
    array = BOX[:2, :3, :4]
    body = bytearray(file_with(array, compression="gzip", shuffle=True, fletcher32=True))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        read = sent(bytes(body), array)
    except BadBody:
        return
    assert read.shape == array.shape


def bomb(array: Array, *, size: int, chunk: tuple[int, ...]) -> bytes:
    """A file whose one chunk inflates to `size` bytes."""

    def build(file: h5py.File) -> None:
        dataset = file.create_dataset(
            "a/CUTOUT", array.shape, array.dtype, chunks=chunk, compression="gzip"
        )
        dataset.id.write_direct_chunk((0, 0, 0), zlib.compress(bytes(size), 9))

    return file_of(build)


def test_a_chunk_that_inflates_to_more_is_refused_in_little_memory() -> None:
    body = bomb(BOX, size=1 << 28, chunk=BOX.shape)
    before = psutil.Process(os.getpid()).memory_info().rss
    tracemalloc.start()
    refused(body, "inflates to more than its size")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20
    assert psutil.Process(os.getpid()).memory_info().rss - before < 64 << 20


def test_a_chunk_that_inflates_to_less_is_refused() -> None:
    refused(bomb(BOX, size=5, chunk=BOX.shape), "holds 5 bytes")


def test_huge_chunks_around_a_small_box_are_refused() -> None:
    body = file_of(
        lambda file: file.create_dataset(
            "a/CUTOUT",
            BOX.shape,
            "<u2",
            chunks=(64, 1024, 1024),
            maxshape=(None, None, None),
            compression="gzip",
        )
    )
    refused(body, "chunks of 134217728 bytes")


def test_large_lzf_chunks_are_refused() -> None:
    array = np.zeros((8, 1024, 1024), dtype="<u2")
    refused(file_with(array, chunks=array.shape, compression="lzf"), "lzf chunks of", array)


def test_a_wrong_checksum_is_refused() -> None:
    body = bytearray(file_with(BOX, chunks=BOX.shape, fletcher32=True))
    place = bytes(body).index(BOX.tobytes()[:64])
    body[place + 5] ^= 1
    refused(bytes(body), "does not fit its checksum")


@given(st.binary(min_size=1, max_size=300))
def test_checksums_are_those_of_the_library(content: bytes) -> None:
    def build(file: h5py.File) -> None:
        data = np.frombuffer(content, dtype=np.uint8)
        file.create_dataset("x", data=data, chunks=data.shape, fletcher32=True)

    with h5py.File(io.BytesIO(file_of(build))) as file:
        _, stored = file["x"].id.read_direct_chunk((0,))
    assert int.from_bytes(stored[-4:], "little") == fletcher32(content)


def test_recorded_bodies_hold_what_the_original_stored(shared: Path) -> None:
    for name, stored, channel in (
        ("013-post-f32-hdf5.body.h5", "014-f32-npz.npy.gz", "f32"),
        ("031-post-i16-hdf5.body.h5", "032-i16-npz.npy", "i16"),
    ):
        expected = recorded_array(shared, "datatypes", stored)
        body = recorded(shared, "datatypes", name)
        (read,) = decode_hdf5(body, layout_of(expected), names=[channel])
        assert read.tobytes() == expected.tobytes()


def test_files_of_the_original_and_ours_hold_the_same(shared: Path) -> None:
    found = 0
    for exchange in scenario(shared, "datatypes")["exchanges"]:
        if exchange["compare"] != "hdf5" or "window" in exchange["path"]:
            continue
        with h5py.File(io.BytesIO(recorded(shared, "datatypes", exchange["expected"]))) as theirs:
            names = list(theirs)
            voxels = [theirs[name]["CUTOUT"][...] for name in names]
            form = Layout(
                channels=tuple(names),
                channel_types=tuple(theirs[n]["CHANNELTYPE"].asstr()[0] for n in names),
                datatypes=tuple(theirs[n]["DATATYPE"].asstr()[0] for n in names),
                shape=(len(names), *voxels[0].shape),
                dtype=voxels[0].dtype,
                has_time=False,
            )
            with h5py.File(io.BytesIO(encode_hdf5(form, voxels))) as ours:
                for name in names:
                    for field in ("CUTOUT", "CHANNELTYPE", "DATATYPE"):
                        mine, wanted = ours[name][field], theirs[name][field]
                        assert mine.dtype == wanted.dtype
                        assert mine.shape == wanted.shape
                        assert np.array_equal(mine[...], wanted[...])
        found += 1
    assert found > 5


# -- several requests at once


def test_files_in_memory_that_are_open_at_once_are_no_other_ones() -> None:
    with new_file() as first, new_file() as second:
        first["a"], second["b"] = 1, 2
        assert (list(first), list(second)) == (["a"], ["b"])
    bodies = [file_with(numbers((2, 3, 4), "<u2") + n) for n in range(2)]
    with open_copy(bodies[0]) as first, open_copy(bodies[1]) as second:
        assert np.array_equal(second["a/CUTOUT"][()], first["a/CUTOUT"][()] + 1)


def test_files_that_are_made_in_several_threads_hold_each_its_own_voxels() -> None:
    def there_and_back(value: int) -> bool:
        array = np.full((8, 64, 64), value, dtype="<u2")
        one = layout(array)
        (found,) = decode_hdf5(encode_hdf5(one, [array]), one, names=one.channels)
        return np.array_equal(found, array)

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(there_and_back, range(1, 201)))
