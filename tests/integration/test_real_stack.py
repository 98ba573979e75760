"""A real stack of electron microscopy and its labels: in by a command, out in every format."""

import io
import os
import pickle
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import blosc
import h5py
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from tests.processes import KEY, Gateway, gateway

Voxels = npt.NDArray[Any]
STACK = (20, 1024, 1024)
BOX = "0,1024/0,1024/0,20"


def sections(folder: Path) -> Voxels:
    """The pages of a folder as one array, by a library that the command does not use."""
    paths = sorted(folder.iterdir())
    return np.stack([np.asarray(Image.open(path)) for path in paths])


def command(running: Gateway, *words: str) -> str:
    environ = {**os.environ, "NDCASS_URL": running.url, "NDCASS_API_KEY": KEY}
    done = subprocess.run(
        [sys.executable, "-m", "ndcass.cli.main", *words],
        env=environ,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(
    scope="module",
    params=[
        ("embedded", "raw"),
        ("embedded", "labels"),
        pytest.param(("cassandra", "raw"), marks=pytest.mark.cassandra),
        pytest.param(("cassandra", "labels"), marks=pytest.mark.cassandra),
    ],
    ids=" ".join,
)
def stack(
    request: pytest.FixtureRequest,
    shared: Path,
    tmp_path_factory: pytest.TempPathFactory,
    conf_of: Callable[[str], Path | None],
) -> Iterator[tuple[Gateway, Voxels, Path]]:
    """A gateway that holds a stack, the voxels of its files, and a folder for results."""
    engine, kind = request.param
    folder = shared / "data" / "drosophila-vnc" / kind
    if kind == "raw":
        fields, options, dtype = {"channel_type": "image", "channel_datatype": "uint8"}, [], "u1"
    else:
        fields = {"channel_type": "annotation", "channel_datatype": "uint32"}
        options, dtype = ["--widen"], "<u4"
    tmp_path = tmp_path_factory.mktemp(kind)
    with gateway(tmp_path / "data", conf=conf_of(engine), workers=2) as running:
        running.create_channel(size_zyx=STACK, **fields)
        receipt = str(tmp_path / "receipt.json")
        command(running, "ingest", str(folder), "t/c", "--receipt", receipt, *options)
        command(running, "verify", receipt)
        yield running, sections(folder).astype(dtype), tmp_path


def body(running: Gateway, service: str) -> bytes:
    answer = running.request("GET", f"/nd/sd/t/c/{service}/0/{BOX}/")
    assert answer.status_code == 200, answer.text
    return answer.content


def test_raw_equals_the_files(stack: tuple[Gateway, Voxels, Path]) -> None:
    running, voxels, _ = stack
    assert body(running, "raw") == voxels.tobytes()


def test_zip_equals_the_files(stack: tuple[Gateway, Voxels, Path]) -> None:
    running, voxels, _ = stack
    assert zlib.decompress(body(running, "zip")) == voxels.tobytes()


def test_npz_equals_the_files(stack: tuple[Gateway, Voxels, Path]) -> None:
    running, voxels, _ = stack
    found = np.load(io.BytesIO(zlib.decompress(body(running, "npz"))))
    assert found.dtype == voxels.dtype
    assert np.array_equal(found, voxels[None])


def test_blosc_equals_the_files(stack: tuple[Gateway, Voxels, Path]) -> None:
    running, voxels, _ = stack
    found = pickle.loads(blosc.decompress(body(running, "blosc")))
    assert np.array_equal(found, voxels[None])


def test_hdf5_equals_the_files(stack: tuple[Gateway, Voxels, Path]) -> None:
    running, voxels, _ = stack
    with h5py.File(io.BytesIO(body(running, "hdf5"))) as file:
        assert np.array_equal(file["c/CUTOUT"][()], voxels)


@pytest.mark.parametrize("suffix", ["npy", "h5", "tif"])
def test_the_cutout_command_equals_the_files(
    stack: tuple[Gateway, Voxels, Path], suffix: str
) -> None:
    running, voxels, folder = stack
    target = folder / f"box.{suffix}"
    command(running, "cutout", "t/c", "--box", "100,901/33,1000/3,17", "-o", str(target))
    expected = voxels[3:17, 33:1000, 100:901]
    if suffix == "npy":
        found = np.load(target)
    elif suffix == "h5":
        with h5py.File(target) as file:
            found = file["c/CUTOUT"][()]
    else:
        with Image.open(target) as pages:
            found = np.stack([_page(pages, n) for n in range(14)])
    assert np.array_equal(found, expected)


def _page(pages: Any, number: int) -> Voxels:
    pages.seek(number)
    return np.asarray(pages)


def test_a_section_looks_as_its_file(stack: tuple[Gateway, Voxels, Path]) -> None:
    running, voxels, _ = stack
    answer = running.request("GET", "/nd/sd/t/c/xy/0/0,1024/0,1024/7/")
    picture = np.asarray(Image.open(io.BytesIO(answer.content)))
    if voxels.dtype == np.uint8:
        assert np.array_equal(picture, voxels[7])
    else:  # false colours: alike where the labels are alike
        assert picture.shape == (1024, 1024, 4)
        for label in np.unique(voxels[7])[:9]:
            assert len(np.unique(picture[voxels[7] == label].view("<u4"))) == 1
