from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
import tifffile

from tests.processes import Outcome

Ndcass = Callable[..., Outcome]
NewChannel = Callable[..., str]
Voxels = npt.NDArray[Any]  # of the type that the test makes

# Of dataset coordinates, whose offset is 5, 0, 1.
BOX = "17,160/3,100/7,30"
PLACE = (slice(6, 29), slice(3, 100), slice(12, 155))


def volume_of(dtype: str, shape: tuple[int, ...] = (40, 200, 300)) -> Voxels:
    return np.random.default_rng(3).integers(0, 200, shape).astype(dtype)


def read(path: Path, channel: str) -> Voxels:
    if path.suffix == ".npy":
        return np.asarray(np.load(path))
    if path.suffix == ".h5":
        with h5py.File(path) as file:
            return np.asarray(file[f"{channel}/CUTOUT"])
    return np.asarray(tifffile.imread(path))


@pytest.mark.parametrize("suffix", [".npy", ".tif", ".h5"])
@pytest.mark.parametrize("datatype", ["uint8", "uint32", "float32"])
def test_file_holds_the_box(
    ndcass: Ndcass, new_channel: NewChannel, tmp_path: Path, suffix: str, datatype: str
) -> None:
    target, volume = new_channel(datatype), volume_of(datatype)
    np.save(tmp_path / "v.npy", volume)
    ndcass("ingest", "v.npy", target)

    result = ndcass(
        "cutout", target, "--box", BOX, "-o", f"out{suffix}", "--box-mib", "1", "--json"
    ).result

    found = read(tmp_path / f"out{suffix}", target.split("/")[1])
    np.testing.assert_array_equal(found, volume[PLACE])
    assert found.dtype == np.dtype(datatype)
    assert result["shape"] == list(found.shape)


@pytest.mark.parametrize("suffix", [".npy", ".tif", ".h5"])
def test_time_range_adds_an_axis(
    ndcass: Ndcass, new_channel: NewChannel, tmp_path: Path, suffix: str
) -> None:
    target = new_channel("uint16", "timeseries", endtime=4)
    volume = volume_of("<u2", (4, 3, 6, 7))
    np.save(tmp_path / "v.npy", volume)
    ndcass("ingest", "v.npy", target)

    ndcass("cutout", target, "--box", "5,12/0,6/1,4", "--time", "1,4", "-o", f"out{suffix}")

    found = read(tmp_path / f"out{suffix}", target.split("/")[1])
    np.testing.assert_array_equal(found, volume[1:4])


def test_file_can_be_ingested_again(
    ndcass: Ndcass, new_channel: NewChannel, tmp_path: Path
) -> None:
    first, volume = new_channel(), volume_of("u1", (4, 6, 7))
    np.save(tmp_path / "v.npy", volume)
    ndcass("ingest", "v.npy", first)

    for suffix in (".npy", ".tif", ".h5"):
        target = new_channel()
        ndcass("cutout", first, "--box", "5,12/0,6/1,5", "-o", f"between{suffix}")
        assert ndcass("ingest", f"between{suffix}", target).code == 0
        ndcass("cutout", target, "--box", "5,12/0,6/1,5", "-o", "after.npy")
        np.testing.assert_array_equal(np.load(tmp_path / "after.npy"), volume)


def test_nothing_stored_is_zeros(ndcass: Ndcass, new_channel: NewChannel, tmp_path: Path) -> None:
    ndcass("cutout", new_channel(), "--box", "5,12/0,6/1,5", "-o", "out.npy")

    assert not np.load(tmp_path / "out.npy").any()


def test_box_beyond_the_dataset_is_refused_with_the_extent(
    ndcass: Ndcass, new_channel: NewChannel, tmp_path: Path
) -> None:
    outcome = ndcass("cutout", new_channel(), "--box", "0,12/0,6/1,5", "-o", "out.npy")

    assert outcome.code == 1
    assert "5,305/0,200/1,41" in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_failure_leaves_the_former_file(
    ndcass: Ndcass, new_channel: NewChannel, tmp_path: Path
) -> None:
    (tmp_path / "out.npy").write_text("former")

    outcome = ndcass("cutout", "T/nothing", "--box", "5,12/0,6/1,5", "-o", "out.npy")

    assert outcome.code == 1
    assert "no channel nothing" in outcome.err
    assert (tmp_path / "out.npy").read_text() == "former"
    assert [path.name for path in tmp_path.iterdir()] == ["out.npy"]


@pytest.mark.parametrize(
    "line",
    [
        ("--box", "5,12/0,6/1,5", "-o", "out.jpg"),
        ("--box", "5,12/0,6", "-o", "out.npy"),
        ("--box", "5,12/0,6/1,5"),
        ("--box", "5,12/0,6/1,5", "-o", "out.npy", "--time", "4,2"),
    ],
)
def test_wrong_call_is_exit_code_two(ndcass: Ndcass, line: tuple[str, ...]) -> None:
    assert ndcass("cutout", "T/c", *line).code == 2
