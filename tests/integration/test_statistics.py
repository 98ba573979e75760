"""Histograms over HTTP on both engines, compared with numpy's."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.processes import Gateway, gateway

SIZE_ZYX = (40, 300, 260)
# As a client of the original service writes it; its dataset begins at z = 1.
OFFSET_Z = 1
REGIONS = ([[5, 5, 5], [15, 15, 15]], [[100, 100, 2], [260, 300, 41]])

Voxels = npt.NDArray[Any]  # whatever type a test counts


@pytest.fixture(
    scope="module", params=["embedded", pytest.param("cassandra", marks=pytest.mark.cassandra)]
)
def running(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    conf_of: Callable[[str], Path | None],
) -> Iterator[Gateway]:
    conf = conf_of(request.param)
    with gateway(tmp_path_factory.mktemp("data"), conf=conf, workers=2) as found:
        yield found


def filled(running: Gateway, token: str, datatype: str) -> Voxels:
    """A channel ``c`` of noise, of which a third is zero; written in two pieces."""
    running.create_channel(size_zyx=SIZE_ZYX, token=token, channel_datatype=datatype)
    path = f"/nd/resource/dataset/{token}d/"
    assert running.request("PUT", path, json={"zoffset": OFFSET_Z}).status_code == 200
    rng = np.random.default_rng(5)
    dtype = np.dtype(datatype)
    voxels = rng.integers(0, np.iinfo(dtype).max, SIZE_ZYX, dtype, endpoint=True)
    voxels[rng.random(SIZE_ZYX) < 1 / 3] = 0
    _, height, width = SIZE_ZYX
    for first, last in ((0, 21), (21, 40)):
        box = f"0,{width}/0,{height}/{first + OFFSET_Z},{last + OFFSET_Z}"
        answer = running.request(
            "POST",
            f"/nd/sd/{token}/c/raw/0/{box}/",
            data=voxels[first:last].tobytes(),
            headers={"X-Volume-Dtype": dtype.str},
        )
        assert answer.status_code == 200, answer.text
    return voxels


def ended(running: Gateway, token: str, job_id: str) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        answer = running.request("GET", f"/nd/stats/{token}/c/genhist/{job_id}/").json()
        if answer["state"] not in ("PENDING", "STARTED"):
            return str(answer["state"])
        time.sleep(0.05)
    raise AssertionError("the job does not end")


def histogram(voxels: Voxels) -> tuple[list[int], list[float]]:
    bins = int(np.iinfo(voxels.dtype).max) + 1
    counts, edges = np.histogram(voxels[voxels > 0], bins=bins, range=(0, bins))
    return counts.tolist(), edges.tolist()


@pytest.mark.parametrize("datatype", ["uint8", "uint16"])
def test_histograms_are_those_of_numpy(running: Gateway, datatype: str) -> None:
    token = f"t{datatype}"
    voxels = filled(running, token, datatype)
    base = f"/nd/stats/{token}/c"
    job = running.request("GET", f"{base}/genhist/").json()
    jobs = running.request("POST", f"{base}/genhist/", json={"ROI": REGIONS}).json()
    for job_id in [job["jobid"], *(result["jobid"] for result in jobs["results"])]:
        assert ended(running, token, job_id) == "SUCCESS"
    found = running.request("GET", f"{base}/hist/").json()
    assert (found["hist"], found["bins"]) == histogram(voxels)
    for region in REGIONS:
        (x0, y0, z0), (x1, y1, z1) = region
        path = f"{base}/hist/roi/{x0},{y0},{z0}-{x1},{y1},{z1}/"
        found = running.request("GET", path).json()
        part = voxels[z0 - OFFSET_Z : z1 - OFFSET_Z, y0:y1, x0:x1]
        assert (found["hist"], found["bins"]) == histogram(part)
        assert found["roi"] == region
    listed = running.request("GET", f"{base}/hist/roi/").json()
    assert listed == list(REGIONS)
