"""The label index made anew from voxels, and compared with them."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ndcass.annotation import ObjectVoxels, read_object_points, write_object_voxels
from ndcass.cli.main import DONE, FAILED, main
from ndcass.errors import InvalidRequest, NotFound
from ndcass.geometry import Box
from ndcass.jobs import HANDLERS
from ndcass.jobs import index as index_job
from ndcass.jobs.index import INDEX_JOB, index_channel
from ndcass.merge import WriteOp
from ndcass.model import Channel
from ndcass.place import Place
from ndcass.store.base import Job, JobState, Stores
from ndcass.store.embedded import labels as embedded_labels
from ndcass.store.embedded import open_embedded
from ndcass.store.memory import MemoryStores
from ndcass.store.memory import annotations as memory_labels
from ndcass.volume import Usage
from ndcass.writer import write_box
from tests.labelled import Volume, annotated


@pytest.fixture(params=["memory", "embedded"])
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stores]:
    opened: Stores = MemoryStores() if request.param == "memory" else await open_embedded(tmp_path)
    yield opened
    await opened.close()


@pytest.fixture
def no_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every write is taken to be over at once."""
    for module in (memory_labels, embedded_labels):
        monkeypatch.setattr(module, "LABEL_WINDOW_S", 0.0)


async def filled(stores: Stores) -> Volume:
    """Labels at two levels and two timesteps, and one that is only an exception."""
    volume = await annotated(stores, exceptions=1, endtime=2)
    voxels = np.zeros((20, 150, 150), dtype="<u4")
    voxels[0, 0, 0], voxels[19, 149, 149], voxels[0, 140, 0] = 5, 5, 6
    box = Box((0, 0, 0), voxels.shape)
    base = Place(volume.channel, volume.view.level(0))
    await write_box(stores, base, 0, box, voxels)
    await write_box(stores, base, 1, Box((0, 0, 0), (1, 1, 1)), voxels[:1, :1, :1])
    await write_box(
        stores, Place(volume.channel, volume.view.level(1)), 0, box, np.where(voxels, 9, voxels)
    )
    points = np.array([(0, 0, 0)], dtype=np.int64)
    await write_object_voxels(
        *volume.target, [ObjectVoxels(7, 0, points, ())], WriteOp.EXCEPTION, usage=Usage()
    )
    return volume


async def entries(volume: Volume) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """All of the index, by level and label."""
    index = volume.stores.labels
    return {
        (level, label): [(t, code) for t, code in await index.mortons(1, level, label)]
        for level in (0, 1, 2)
        for label in (5, 6, 7, 8, 9)
    }


async def run(volume: Volume, *, check: bool = False, **detail: Any) -> Mapping[str, Any]:
    """What the job noted at last."""
    job = await volume.stores.jobs.submit(INDEX_JOB, volume.channel.id, {"check": check, **detail})
    notes: list[Mapping[str, Any]] = []

    async def progress(done_units: int, total_units: int, detail: Mapping[str, Any]) -> None:
        assert done_units <= total_units
        json.dumps(detail)  # the store keeps it as such
        notes.append(dict(detail))

    await index_channel(volume.stores, job, progress)
    return notes[-1]


async def test_an_index_that_is_lost_is_made_anew(stores: Stores) -> None:
    volume = await filled(stores)
    before = await entries(volume)
    assert (await run(volume, check=True))["missing"] == 0
    await stores.labels.delete_channel(volume.channel.id)
    found = await run(volume, check=True)
    assert found["missing"] == found["present"] == 8
    assert (await run(volume))["missing"] == 8
    assert await entries(volume) == before
    assert (await run(volume, check=True))["missing"] == 0


async def test_a_check_changes_nothing(stores: Stores, no_window: None) -> None:
    volume = await filled(stores)
    await stores.labels.append(volume.channel.id, 0, 0, {8: [0, 4000]})
    before = await entries(volume)
    found = await run(volume, check=True)
    assert (found["dead"], found["entries"], found["dropped"]) == (2, 10, 0)
    assert await entries(volume) == before


async def test_dead_entries_are_dropped_and_no_others(stores: Stores, no_window: None) -> None:
    volume = await filled(stores)
    before = await entries(volume)
    await stores.labels.append(volume.channel.id, 0, 0, {8: [0, 4000], 5: [77], 6: [0]})
    await asyncio.sleep(0.01)
    assert (await run(volume))["dropped"] == 4
    assert await entries(volume) == before


async def test_young_entries_stay(stores: Stores) -> None:
    volume = await filled(stores)
    await stores.labels.append(volume.channel.id, 0, 0, {8: [0, 4000]})
    assert (await run(volume))["dropped"] == 0
    assert len(await stores.labels.mortons(volume.channel.id, 0, 8)) == 2


async def test_what_is_written_while_the_index_is_made_stays(
    stores: Stores, no_window: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = await filled(stores)
    weed = index_job._weed

    async def late(*given: Any) -> None:
        points = np.array([(0, 0, 200)], dtype=np.int64)
        await write_object_voxels(
            *volume.target, [ObjectVoxels(8, 0, points, ())], WriteOp.MERGE, usage=Usage()
        )
        await weed(*given)

    monkeypatch.setattr(index_job, "_weed", late)
    await run(volume)
    found = await read_object_points(*volume.target, [8], 0, limit_bytes=1 << 20)
    assert found.tolist() == [[0, 0, 200]]


async def test_a_job_goes_on_behind_the_last_unit(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_job, "UNIT_CUBOIDS", 1)
    monkeypatch.setattr(index_job, "NOTE_EVERY_S", 0.0)
    volume = await filled(stores)
    whole = await run(volume, check=True)
    job = await stores.jobs.submit(INDEX_JOB, volume.channel.id, {"check": True})
    notes: list[Mapping[str, Any]] = []

    async def progress(done_units: int, total_units: int, detail: Mapping[str, Any]) -> None:
        notes.append(dict(detail))
        if len(notes) == 4:
            raise RuntimeError("the worker dies")

    with pytest.raises(RuntimeError):
        await index_channel(stores, job, progress)
    rest = await run(volume, **notes[-1])
    assert rest["cuboids"] == whole["cuboids"] == 7
    assert (rest["present"], rest["missing"]) == (whole["present"], 0)


async def test_other_channels_have_no_index(stores: Stores) -> None:
    volume = await annotated(stores)
    image = await stores.catalog.create_channel(
        Channel(
            id=0,
            project="p",
            channel_name="img",
            channel_type="image",
            channel_datatype="uint8",
        )
    )
    for channel_id, error in ((image.id, InvalidRequest), (999, NotFound)):
        job = await stores.jobs.submit(INDEX_JOB, channel_id, {})
        with pytest.raises(error):
            await index_channel(stores, job, _ignore)
    assert volume.channel.is_annotation
    assert INDEX_JOB in HANDLERS


async def _ignore(done_units: int, total_units: int, detail: Mapping[str, Any]) -> None:
    """A progress that nobody looks at."""


def test_commands_check_and_rebuild(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def make(*, lose: bool) -> Job | None:
        stores = await open_embedded(tmp_path)
        if not lose:
            await filled(stores)
        else:
            await stores.labels.delete_channel(1)
        jobs = await stores.jobs.jobs()
        await stores.close()
        return jobs[0] if jobs else None

    where = ["t/anno", "--data", str(tmp_path), "--quiet", "--json"]
    asyncio.run(make(lose=False))
    assert main(["index", "check", *where]) == DONE
    assert json.loads(capsys.readouterr().out)["missing"] == 0
    job = asyncio.run(make(lose=True))
    assert job is not None
    assert job.state is JobState.SUCCESS
    assert main(["index", "check", *where]) == FAILED
    assert json.loads(capsys.readouterr().out)["missing"] == 8
    assert main(["index", "rebuild", *where]) == DONE
    assert main(["index", "check", *where[:-1]]) == DONE
    assert "0 missing in the index, 0 dead" in capsys.readouterr().out
    assert main(["index", "check", "t/none", *where[1:]]) == FAILED
