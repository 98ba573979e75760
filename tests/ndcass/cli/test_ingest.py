import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import requests
import tifffile
from PIL import Image

from ndcass.cli import receipt
from tests.processes import KEY, Gateway, Outcome, StartGateway, environment, free_port

Ndcass = Callable[..., Outcome]
NewChannel = Callable[..., str]
Voxels = npt.NDArray[Any]  # of the type that the test makes

# The whole of the dataset that the server has.
SHAPE_ZYX = (40, 200, 300)


def random_volume(dtype: str = "u1", shape: tuple[int, ...] = SHAPE_ZYX, seed: int = 1) -> Voxels:
    """Voxels of which some are zero."""
    rng = np.random.default_rng(seed)
    voxels = rng.integers(0, 255, shape) * (rng.random(shape) > 0.1)
    volume: Voxels = voxels.astype(dtype)
    return volume


def stored(server: Gateway, target: str, box: str, dtype: str = "u1") -> Voxels:
    """A box by the route that tools use, without our client."""
    answer = requests.get(
        f"{server.url}/nd/sd/{target}/raw/0/{box}/",
        headers={"Authorization": f"Token {KEY}"},
        timeout=30,
    )
    assert answer.ok, answer.text
    shape = [int(length) for length in answer.headers["X-Volume-Shape"].split(",")]
    voxels: Voxels = np.frombuffer(answer.content, dtype).reshape(shape)[0]
    return voxels


WHOLE = "5,305/0,200/1,41"


def test_npy_goes_in_bit_by_bit(
    server: Gateway, ndcass: Ndcass, new_channel: NewChannel, tmp_path: Path
) -> None:
    target, volume = new_channel(), random_volume()
    np.save(tmp_path / "v.npy", volume)

    result = ndcass("ingest", "v.npy", target, "--json").result

    np.testing.assert_array_equal(stored(server, target, WHOLE), volume)
    assert result["box"] == WHOLE
    assert result["voxels"] == volume.size
    assert result["nonzero"] == np.count_nonzero(volume)
    assert result["boxes"] == result["boxes_total"]


@pytest.mark.parametrize("box_mib", ["1", "64"])
@pytest.mark.parametrize("parallel", ["1", "3"])
def test_size_and_number_of_requests_make_no_difference(
    server: Gateway,
    ndcass: Ndcass,
    new_channel: NewChannel,
    tmp_path: Path,
    box_mib: str,
    parallel: str,
) -> None:
    target, volume = new_channel("uint64"), random_volume("<u8", (20, 150, 200))
    np.save(tmp_path / "v.npy", volume)

    ndcass(
        "ingest",
        "v.npy",
        target,
        "--offset",
        "37,11,9",
        "--box-mib",
        box_mib,
        "--parallel",
        parallel,
    )

    np.testing.assert_array_equal(stored(server, target, "37,237/11,161/9,29", "<u8"), volume)


def test_sections_go_in_in_natural_order(
    server: Gateway, ndcass: Ndcass, new_channel: NewChannel, tmp_path: Path
) -> None:
    target, volume = new_channel(), random_volume(shape=(12, 30, 40))
    (tmp_path / "stack").mkdir()
    for number, section in enumerate(volume):
        Image.fromarray(section).save(tmp_path / "stack" / f"s{number}.png")

    ndcass("ingest", "stack", target)

    np.testing.assert_array_equal(stored(server, target, "5,45/0,30/1,13"), volume)


def test_timesteps_go_in_from_the_start_time(
    server: Gateway, ndcass: Ndcass, new_channel: NewChannel, tmp_path: Path
) -> None:
    target = new_channel("uint16", "timeseries", starttime=2, endtime=5)
    volume = random_volume("<u2", (3, 4, 5, 6))
    np.save(tmp_path / "v.npy", volume)

    assert ndcass("ingest", "v.npy", target, "--json").result["times"] == [2, 3, 4]

    found = stored(server, target, "5,11/0,5/1,5/2,5", "<u2")
    np.testing.assert_array_equal(found, volume)


def test_other_type_is_refused_with_both_names(
    server: Gateway, ndcass: Ndcass, new_channel: NewChannel, tmp_path: Path
) -> None:
    target = new_channel("uint16")
    np.save(tmp_path / "v.npy", random_volume("u1", (2, 2, 2)))

    outcome = ndcass("ingest", "v.npy", target)

    assert outcome.code == 1
    assert outcome.err == (
        f"ndcass: v.npy is uint8, channel {target} is uint16; "
        "--widen converts it without changing a value\n"
    )
    assert not stored(server, target, "5,10/0,5/1,5", "<u2").any()


def test_widen_converts_without_changing_a_value(
    server: Gateway, ndcass: Ndcass, new_channel: NewChannel, tmp_path: Path
) -> None:
    target, labels = new_channel("uint32", "annotation"), random_volume("u1", (20, 30, 40))
    np.save(tmp_path / "v.npy", labels)

    ndcass("ingest", "v.npy", target, "--widen")

    np.testing.assert_array_equal(stored(server, target, "5,45/0,30/1,21", "<u4"), labels)


def test_widen_never_narrows(ndcass: Ndcass, new_channel: NewChannel, tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", random_volume("<u2", (2, 2, 2)))

    outcome = ndcass("ingest", "v.npy", new_channel("uint8"), "--widen")

    assert outcome.code == 1
    assert "v.npy is uint16" in outcome.err


def test_volume_beyond_the_dataset_is_refused_with_both_extents(
    ndcass: Ndcass, new_channel: NewChannel, tmp_path: Path
) -> None:
    np.save(tmp_path / "v.npy", random_volume(shape=(2, 2, 10)))

    outcome = ndcass("ingest", "v.npy", new_channel(), "--offset", "300,0,1")

    assert outcome.code == 1
    assert "300,310/0,2/1,3" in outcome.err
    assert "5,305/0,200/1,41" in outcome.err


def test_read_only_channel_is_refused(
    ndcass: Ndcass, new_channel: NewChannel, tmp_path: Path
) -> None:
    np.save(tmp_path / "v.npy", random_volume(shape=(2, 2, 2)))

    outcome = ndcass("ingest", "v.npy", new_channel(readonly=1))

    assert outcome.code == 1
    assert "read-only" in outcome.err


def test_zeros_leave_alone_what_is_stored_unless_told_otherwise(
    server: Gateway, ndcass: Ndcass, new_channel: NewChannel, tmp_path: Path
) -> None:
    target = new_channel()
    np.save(tmp_path / "ones.npy", np.ones((2, 2, 2), dtype=np.uint8))
    np.save(tmp_path / "zeros.npy", np.zeros((2, 2, 2), dtype=np.uint8))
    ndcass("ingest", "ones.npy", target)

    ndcass("ingest", "zeros.npy", target)
    assert stored(server, target, "5,7/0,2/1,3").all()
    ndcass("ingest", "zeros.npy", target, "--write", "replace")
    assert not stored(server, target, "5,7/0,2/1,3").any()


def test_wrong_key_is_said_in_one_line(
    ndcass: Ndcass, new_channel: NewChannel, tmp_path: Path
) -> None:
    np.save(tmp_path / "v.npy", random_volume(shape=(2, 2, 2)))

    outcome = ndcass("ingest", "v.npy", new_channel(), NDCASS_API_KEY="f" * 40)

    assert outcome.code == 1
    assert "may not" in outcome.err
    assert outcome.err.count("\n") == 1
    assert "f" * 40 not in outcome.err


def cut_short(path: Path, boxes: int) -> None:
    """Make a receipt what it was after so many boxes."""
    paper = receipt.load(path)
    assert len(paper.boxes) > boxes
    paper.boxes, paper.finished = paper.boxes[:boxes], None
    receipt.save(path, paper)


def test_resume_sends_only_what_is_missing(
    server: Gateway, ndcass: Ndcass, new_channel: NewChannel, tmp_path: Path
) -> None:
    target, volume = new_channel(), random_volume()
    np.save(tmp_path / "v.npy", volume)
    options = ("ingest", "v.npy", target, "--box-mib", "1", "--receipt", "r.json", "--json")
    whole = ndcass(*options).result
    np.testing.assert_array_equal(stored(server, target, WHOLE), volume)
    cut_short(tmp_path / "r.json", 2)
    done = receipt.load(tmp_path / "r.json").boxes
    erase(server, target)

    resumed = ndcass(*options, "--resume").result

    assert resumed == whole
    found = stored(server, target, WHOLE)
    sent = np.ones(SHAPE_ZYX, dtype=bool)
    for box in done:
        sent[box.as_box().shifted((-1, 0, -5)).slices()] = False
    np.testing.assert_array_equal(found, volume * sent)


def erase(server: Gateway, target: str) -> None:
    answer = requests.post(
        f"{server.url}/nd/sd/{target}/raw/0/{WHOLE}/?write=replace",
        data=bytes(int(np.prod(SHAPE_ZYX))),
        headers={"Authorization": f"Token {KEY}", "X-Volume-Dtype": "|u1"},
        timeout=30,
    )
    assert answer.ok, answer.text


def test_unfinished_receipt_is_not_overwritten(
    ndcass: Ndcass, new_channel: NewChannel, tmp_path: Path
) -> None:
    target = new_channel()
    np.save(tmp_path / "v.npy", random_volume())
    options = ("ingest", "v.npy", target, "--box-mib", "1", "--receipt", "r.json")
    assert ndcass(*options).code == 0
    assert ndcass(*options).code == 0
    cut_short(tmp_path / "r.json", 1)

    outcome = ndcass(*options)

    assert outcome.code == 1
    assert "--resume" in outcome.err
    assert len(receipt.load(tmp_path / "r.json").boxes) == 1


def test_resume_refuses_another_source(
    ndcass: Ndcass, new_channel: NewChannel, tmp_path: Path
) -> None:
    target = new_channel()
    options = ("ingest", "v.npy", target, "--box-mib", "1", "--receipt", "r.json")
    np.save(tmp_path / "v.npy", random_volume(seed=1))
    ndcass(*options)
    cut_short(tmp_path / "r.json", 1)
    np.save(tmp_path / "v.npy", random_volume(seed=2))

    outcome = ndcass(*options, "--resume")

    assert outcome.code == 1
    assert "the source differs in fingerprint (changed files)" in outcome.err


def test_resume_refuses_another_target(
    ndcass: Ndcass, new_channel: NewChannel, tmp_path: Path
) -> None:
    first, second = new_channel(), new_channel()
    np.save(tmp_path / "v.npy", random_volume())
    ndcass("ingest", "v.npy", first, "--box-mib", "1", "--receipt", "r.json")
    cut_short(tmp_path / "r.json", 1)

    outcome = ndcass("ingest", "v.npy", second, "--receipt", "r.json", "--resume")

    assert outcome.code == 1
    assert "the target differs in channel" in outcome.err


def test_resume_refuses_a_channel_that_was_made_again(
    server: Gateway, ndcass: Ndcass, new_channel: NewChannel, tmp_path: Path
) -> None:
    target = new_channel()
    np.save(tmp_path / "v.npy", random_volume())
    ndcass("ingest", "v.npy", target, "--box-mib", "1", "--receipt", "r.json")
    cut_short(tmp_path / "r.json", 1)
    name = target.split("/")[1]
    path = f"dataset/D/project/P/channel/{name}/"
    assert server.request("DELETE", f"/nd/resource/{path}").status_code == 204
    server.create(path, channel_name=name, channel_type="image", channel_datatype="uint8")

    outcome = ndcass("ingest", "v.npy", target, "--receipt", "r.json", "--resume")

    assert outcome.code == 1
    assert "the target differs in channel_id" in outcome.err


def test_ingest_outlives_a_killed_command_and_a_restarted_server(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    port, data = free_port(), tmp_path / "data"
    first = start_gateway(data, port=port)
    shape = (64, 512, 512)
    first.create("dataset/E/", dataset_name="E", ximagesize=512, yimagesize=512, zimagesize=64)
    first.create("dataset/E/project/E/", project_name="E")
    first.create("dataset/E/project/E/token/E/", token_name="E")
    first.create(
        "dataset/E/project/E/channel/c/",
        channel_name="c",
        channel_type="image",
        channel_datatype="uint8",
    )
    volume = random_volume(shape=shape)
    np.save(tmp_path / "v.npy", volume)
    line = ["ingest", "v.npy", "E/c", "--box-mib", "1", "--receipt", "r.json"]
    env = environment(NDCASS_URL=first.url, NDCASS_API_KEY=KEY)
    command = [sys.executable, "-m", "ndcass.cli.main", *line]
    process = subprocess.Popen(command, cwd=tmp_path, env=env)
    path = tmp_path / "r.json"
    while process.poll() is None and not (path.exists() and receipt.load(path).boxes):
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert first.stop() == 0
    before = len(receipt.load(path).boxes)
    start_gateway(data, port=port)

    finished = subprocess.run(
        [*command, "--resume", "--json"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )

    result = json.loads(finished.stdout)
    assert before >= 1
    assert result["boxes"] == result["boxes_total"] == 4 * 4
    assert result["nonzero"] == np.count_nonzero(volume)
    verified = subprocess.run(
        [*command[:3], "verify", "r.json"], cwd=tmp_path, env=env, timeout=100, check=False
    )
    assert verified.returncode == 0


def test_real_stack_goes_in_and_comes_out_bit_by_bit(
    ndcass: Ndcass, new_channel: NewChannel, tmp_path: Path, shared: Path, server: Gateway
) -> None:
    folder = shared / "data" / "drosophila-vnc"
    server.create(
        "dataset/vnc/",
        dataset_name="vnc",
        ximagesize=1024,
        yimagesize=1024,
        zimagesize=20,
        xvoxelres=4.6,
        yvoxelres=4.6,
        zvoxelres=50.0,
    )
    server.create("dataset/vnc/project/vnc/", project_name="vnc")
    server.create("dataset/vnc/project/vnc/token/vnc/", token_name="vnc")
    for name, kind, datatype, pattern, options in (
        ("raw", "image", "uint8", "*.tif", ()),
        ("labels", "annotation", "uint32", "*.png", ("--widen",)),
        ("membranes", "image", "uint8", "*.png", ()),
    ):
        server.create(
            f"dataset/vnc/project/vnc/channel/{name}s/",
            channel_name=f"{name}s",
            channel_type=kind,
            channel_datatype=datatype,
        )
        sections = sorted((folder / name).glob(pattern))
        read = tifffile.imread if pattern == "*.tif" else lambda path: np.asarray(Image.open(path))
        expected = np.stack([read(section) for section in sections])

        ingested = ndcass("ingest", folder / name, f"vnc/{name}s", *options, "--json").result
        verified = ndcass("verify", ingested["receipt"], "--json").result
        ndcass("cutout", f"vnc/{name}s", "--box", "0,1024/0,1024/0,20", "-o", f"{name}.npy")

        found = np.load(tmp_path / f"{name}.npy")
        assert found.dtype == np.dtype(datatype)
        np.testing.assert_array_equal(found, expected)
        assert ingested["nonzero"] == np.count_nonzero(expected)
        assert verified == {"checked": ingested["boxes"], "wrong": []}
