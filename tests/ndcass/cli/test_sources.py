from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from PIL import Image

from ndcass.cli.failure import CommandFailed
from ndcass.cli.sources import Shape, natural_key, open_source

Voxels = npt.NDArray[Any]  # of the type that the test makes

VOLUME = np.arange(5 * 6 * 7, dtype=np.uint8).reshape(5, 6, 7)


def write_nifti(path: Path, volume: Voxels, *, slope: float = 1, inter: float = 0) -> None:
    make: Any = nibabel.Nifti1Image  # has no types
    image = make(volume.T, np.eye(4))
    image.header.set_slope_inter(slope, inter)
    nibabel.save(image, path)


def whole(path: Path, *, dataset: str | None = None, t: int = 0) -> Voxels:
    with open_source(path, dataset=dataset) as source:
        voxels = source.reader.read(t, range(source.shape.z), range(source.shape.y))
        assert voxels.shape == source.shape[1:]
        return np.array(voxels, dtype=source.dtype)


def write_sections(folder: Path, volume: Voxels, suffix: str, **options: Any) -> None:
    folder.mkdir(exist_ok=True)
    for number, section in enumerate(volume):
        path = folder / f"section{number}{suffix}"
        if suffix == ".png":
            Image.fromarray(section).save(path)
        else:
            tifffile.imwrite(path, section, **options)


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", "<u4", "<i2", "<f4", "<f8"])
def test_npy_of_every_type_reads_back(tmp_path: Path, dtype: str) -> None:
    np.save(tmp_path / "v.npy", VOLUME.astype(dtype))

    read = whole(tmp_path / "v.npy")

    assert read.dtype == np.dtype(dtype).newbyteorder("<")
    np.testing.assert_array_equal(read, VOLUME)


def test_npy_in_fortran_order_reads_back(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.asfortranarray(VOLUME))

    np.testing.assert_array_equal(whole(tmp_path / "v.npy"), VOLUME)


def test_npy_with_a_time_axis_has_timesteps(tmp_path: Path) -> None:
    volume = np.stack([VOLUME, VOLUME + 1])
    np.save(tmp_path / "v.npy", volume)

    with open_source(tmp_path / "v.npy") as source:
        assert source.shape == Shape(2, 5, 6, 7)
    np.testing.assert_array_equal(whole(tmp_path / "v.npy", t=1), volume[1])


def test_part_of_a_source_is_that_part(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", VOLUME)
    write_sections(tmp_path / "tif", VOLUME, ".tif")
    write_sections(tmp_path / "png", VOLUME, ".png")
    tifffile.imwrite(tmp_path / "v.tif", VOLUME, photometric="minisblack")

    for name in ("v.npy", "tif", "png", "v.tif"):
        with open_source(tmp_path / name) as source:
            part = source.reader.read(0, range(1, 3), range(2, 6))
            np.testing.assert_array_equal(part, VOLUME[1:3, 2:6])


def test_section_numbers_count_as_numbers(tmp_path: Path) -> None:
    volume = np.arange(12, dtype=np.uint8).repeat(4).reshape(12, 2, 2)
    write_sections(tmp_path / "stack", volume, ".tif")

    np.testing.assert_array_equal(whole(tmp_path / "stack"), volume)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_tiff_pages_read_back(tmp_path: Path, byteorder: Any, compression: str | None) -> None:
    volume = VOLUME.astype(np.uint16) * 257
    tifffile.imwrite(
        tmp_path / "v.tif",
        volume,
        byteorder=byteorder,
        compression=compression,
        photometric="minisblack",
    )

    read = whole(tmp_path / "v.tif")

    assert read.dtype == np.dtype("<u2")
    np.testing.assert_array_equal(read, volume)


def test_black_and_white_png_is_zeros_and_ones(tmp_path: Path) -> None:
    write_sections(tmp_path / "mask", VOLUME % 2 == 0, ".png")

    read = whole(tmp_path / "mask")

    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, VOLUME % 2 == 0)


def test_sixteen_bit_png_reads_back(tmp_path: Path) -> None:
    volume = VOLUME.astype(np.uint16) * 300
    write_sections(tmp_path / "deep", volume, ".png")

    np.testing.assert_array_equal(whole(tmp_path / "deep"), volume)


def test_colours_are_packed_with_red_in_the_lowest_byte(tmp_path: Path) -> None:
    colours = np.zeros((1, 2, 2, 3), dtype=np.uint8)
    colours[..., 0], colours[..., 1], colours[..., 2] = 1, 2, 3
    write_sections(tmp_path / "rgb", colours, ".png")

    read = whole(tmp_path / "rgb")

    assert read.dtype == np.dtype("<u4")
    assert (read == 0xFF030201).all()


def test_hdf5_takes_its_only_array(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file["em/CUTOUT"] = VOLUME
        file["em/DATATYPE"] = [b"uint8"]

    np.testing.assert_array_equal(whole(tmp_path / "v.h5"), VOLUME)


def test_hdf5_with_several_arrays_wants_a_choice(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file["raw"], file["labels"] = VOLUME, VOLUME + 1

    with pytest.raises(CommandFailed, match="--dataset: labels, raw"):
        whole(tmp_path / "v.h5")
    with pytest.raises(CommandFailed, match="no array other"):
        whole(tmp_path / "v.h5", dataset="other")
    np.testing.assert_array_equal(whole(tmp_path / "v.h5", dataset="/labels"), VOLUME + 1)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_is_turned_to_z_y_x(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"v{suffix}"
    write_nifti(path, VOLUME)

    np.testing.assert_array_equal(whole(path), VOLUME)
    with open_source(path) as source:
        part = source.reader.read(0, range(1, 3), range(2, 6))
        np.testing.assert_array_equal(part, VOLUME[1:3, 2:6])


def test_nifti_with_a_time_axis_has_timesteps(tmp_path: Path) -> None:
    volume = np.stack([VOLUME, VOLUME + 1, VOLUME + 2])
    write_nifti(tmp_path / "v.nii", volume)

    np.testing.assert_array_equal(whole(tmp_path / "v.nii", t=2), volume[2])


def test_scaled_nifti_is_of_the_scaled_type(tmp_path: Path) -> None:
    write_nifti(tmp_path / "v.nii", VOLUME, slope=0.5, inter=10)

    read = whole(tmp_path / "v.nii")

    assert read.dtype == np.float64


def test_sections_of_two_sizes_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    write_sections(tmp_path / "stack", VOLUME, ".tif")
    tifffile.imwrite(tmp_path / "stack" / "section3.tif", VOLUME[0, :4])

    with pytest.raises(CommandFailed, match=r"section3\.tif is 7 x 4 uint8, section0\.tif is"):
        whole(tmp_path / "stack")


def test_sections_of_two_types_are_refused(tmp_path: Path) -> None:
    write_sections(tmp_path / "stack", VOLUME, ".png")
    Image.fromarray(VOLUME[0].astype(np.uint16)).save(tmp_path / "stack" / "section2.png")

    with pytest.raises(CommandFailed, match=r"section2\.png is 7 x 6 uint16"):
        whole(tmp_path / "stack")


def test_pages_of_two_sizes_are_refused(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "v.tif") as file:
        file.write(VOLUME[0])
        file.write(VOLUME[0, :4])

    with pytest.raises(CommandFailed, match=r"page 1 of .* is 7 x 4"):
        whole(tmp_path / "v.tif")


def test_folder_of_two_kinds_is_refused(tmp_path: Path) -> None:
    write_sections(tmp_path / "stack", VOLUME, ".png")
    write_sections(tmp_path / "stack", VOLUME, ".tif")

    with pytest.raises(CommandFailed, match=r"both \.tif and \.png"):
        whole(tmp_path / "stack")


def test_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match=r"holds no \.tif and no \.png"):
        whole(tmp_path)


@pytest.mark.parametrize("name", ["v.npy", "v.tif", "v.png", "v.h5", "v.nii", "v.nii.gz"])
def test_file_that_is_something_else_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"no volume at all " * 100)

    with pytest.raises(CommandFailed, match=name):
        whole(tmp_path / name)


@pytest.mark.parametrize("name", ["v.npy", "v.tif", "v.png", "v.h5", "v.nii"])
def test_file_that_ends_early_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    big = np.random.default_rng(1).integers(0, 255, (8, 64, 64), dtype=np.uint8)
    if name.endswith(".npy"):
        np.save(path, big)
    elif name.endswith(".tif"):
        tifffile.imwrite(path, big, photometric="minisblack", compression="zlib")
    elif name.endswith(".png"):
        Image.fromarray(big[0]).save(path)
    elif name.endswith(".h5"):
        with h5py.File(path, "w") as file:
            file["v"] = big
    else:
        write_nifti(path, big)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    with pytest.raises(CommandFailed, match=name):
        whole(path)


def test_pickled_npy_is_not_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)

    with pytest.raises(CommandFailed, match=r"v\.npy"):
        whole(tmp_path / "v.npy")


def test_complex_numbers_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", VOLUME.astype(np.complex64))

    with pytest.raises(CommandFailed, match="complex64, which no channel can"):
        whole(tmp_path / "v.npy")


def test_unknown_kind_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "v.mrc").write_bytes(b"")

    with pytest.raises(CommandFailed, match=r"known are .*\.npy"):
        whole(tmp_path / "v.mrc")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match=r"there is no .*none\.npy"):
        whole(tmp_path / "none.npy")


def test_changed_file_has_another_fingerprint(tmp_path: Path) -> None:
    prints = []
    for number in range(2):
        np.save(tmp_path / "v.npy", np.zeros((2, 2, 2 + number), dtype=np.uint8))
        with open_source(tmp_path / "v.npy") as source:
            prints.append(source.fingerprint)

    assert prints[0] != prints[1]


def test_natural_order() -> None:
    names = ["b1", "a10", "a2", "a", "a02", "10", "9"]

    assert sorted(names, key=natural_key) == ["9", "10", "a", "a02", "a2", "a10", "b1"]
