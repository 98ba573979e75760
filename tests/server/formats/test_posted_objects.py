"""Files of objects that mean harm: refused, in time and in memory."""

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest

from ndcass.errors import InvalidRequest, Malformed, NdcassError, TooLarge
from ndcass.object_writes import PostedObject
from ndcass.server.formats import posted_objects
from tests.annotated import object_file


def decode(body: bytes) -> Sequence[PostedObject]:
    return posted_objects.decode_objects(body, base_level=0, offset_of=lambda level: (0, 0, 0))


def made(fill: Callable[[h5py.File], object]) -> bytes:
    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        fill(file)
    return out.getvalue()


def _external_group(file: h5py.File) -> None:
    file["1"] = h5py.ExternalLink("/etc/passwd", "/")


def _external_field(file: h5py.File) -> None:
    file.create_group("1/METADATA")["STATUS"] = h5py.ExternalLink("other.h5", "/x")


def _soft_field(file: h5py.File) -> None:
    file["secret"] = [1]
    file.create_group("1/METADATA")["STATUS"] = h5py.SoftLink("/secret")


def _virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout(shape=(4, 3), dtype="<u4")
    layout[:] = h5py.VirtualSource("other.h5", "x", shape=(4, 3))
    file.create_group("1").create_virtual_dataset("VOXELS", layout)


def _raw_file(file: h5py.File) -> None:
    group = file.create_group("1/METADATA")
    group.create_dataset("STATUS", (1,), dtype="<u4", external=[("/etc/passwd", 0, 4)])


def _text_as_number(file: h5py.File) -> None:
    file.create_group("1/METADATA")["STATUS"] = "many"


def _number_as_text(file: h5py.File) -> None:
    file.create_group("1/METADATA")["AUTHOR"] = [1]


def _packed_text(file: h5py.File) -> None:
    group = file.create_group("1/METADATA")
    group.create_dataset("AUTHOR", data=np.array([b"x" * 9]), compression="gzip")


def _group_as_dataset(file: h5py.File) -> None:
    file.create_group("1/METADATA/STATUS")


def _dataset_as_group(file: h5py.File) -> None:
    file.create_dataset("1/METADATA", data=[1])


def _enumeration(file: h5py.File) -> None:
    file.create_group("1").create_dataset("CUTOUT", data=np.ones((1, 1, 1), dtype=np.bool_))
    file["1/XYZOFFSET"] = [0, 0, 0]


def _nothing(file: h5py.File) -> None:
    file.create_group("1/METADATA").create_dataset("SEEDS", data=h5py.Empty("<u4"))
    file["1/ANNOTATION_TYPE"] = [2]


def _not_a_number(file: h5py.File) -> None:
    file["1/METADATA/CONFIDENCE"] = [np.nan]


def _far_away(file: h5py.File) -> None:
    file["1/VOXELS"] = np.full((1, 3), 2**64 - 1, dtype="<u8")


@pytest.mark.parametrize(
    "fill",
    [
        _external_group, _external_field, _soft_field, _virtual, _raw_file, _text_as_number,
        _number_as_text, _packed_text, _group_as_dataset, _dataset_as_group, _enumeration,
        _nothing, _not_a_number, _far_away,
    ],
)  # fmt: skip
def test_files_that_do_not_hold_plain_objects_are_refused(
    fill: Callable[[h5py.File], object],
) -> None:
    with pytest.raises(Malformed):
        decode(made(fill))


def test_a_file_that_announces_much_is_measured_before_it_is_read() -> None:
    def huge(file: h5py.File) -> None:
        group = file.create_group("1")
        group.create_dataset("CUTOUT", (1 << 16, 1 << 16, 1 << 10), dtype="<u4", chunks=(1, 64, 64))

    assert posted_objects.voxel_bytes(made(huge)) > 1 << 44


@pytest.mark.parametrize(
    ("path", "count"), [("METADATA/SEEDS", 1 << 20), ("ANNOTATION_TYPE", 1 << 30)]
)
def test_lists_that_are_too_long_are_not_read(path: str, count: int) -> None:
    def long(file: h5py.File) -> None:
        file.create_group("1/METADATA")
        if path != "ANNOTATION_TYPE":
            file["1/ANNOTATION_TYPE"] = [2]
        file.create_dataset(f"1/{path}", (count,), dtype="<u4", chunks=(1024,), compression="gzip")

    with pytest.raises(TooLarge):
        decode(made(long))


def test_one_text_in_very_many_places_is_given_up() -> None:
    def often(file: h5py.File) -> None:
        text = file.create_dataset("text", data=["x" * (1 << 20)], dtype=h5py.string_dtype())
        for number in range(1, 100):
            file.create_group(f"{number}/METADATA")["KVPAIRS"] = text
        del file["text"]

    with pytest.raises((TooLarge, InvalidRequest)):
        decode(made(often))


def test_the_object_that_is_wrong_is_named() -> None:
    body = object_file(("good", {}), ("wrong", {"VOXELS": np.ones((1, 2), "<u4")}))
    with pytest.raises(InvalidRequest, match="wrong"):
        decode(body)


@pytest.mark.parametrize("flips", range(8))
def test_damaged_files_end_in_our_own_errors(flips: int, tmp_path: Path) -> None:
    body = bytearray(
        object_file(("1", {"METADATA/AUTHOR": "someone", "VOXELS": np.ones((9, 3), "<u4")}))
    )
    random = np.random.default_rng(flips)
    for _ in range(60):
        damaged = bytearray(body)
        for at in random.integers(0, len(body), 4):
            damaged[at] ^= int(random.integers(1, 256))
        try:
            if posted_objects.voxel_bytes(damaged) < 1 << 20:
                decode(bytes(damaged))
        except NdcassError:
            pass


def test_bodies_that_are_read_in_several_threads_are_not_mixed_up() -> None:
    bodies = [object_file((str(n), {"ANNOTATION_TYPE": [2]})) for n in range(1, 401)]

    with ThreadPoolExecutor(8) as threads:
        found = [[posted.name for posted in decode(body)] for body in bodies]
        at_once = list(threads.map(lambda body: [p.name for p in decode(body)], bodies))

    assert at_once == found == [[str(n)] for n in range(1, 401)]
