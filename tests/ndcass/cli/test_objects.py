import asyncio
import json
from pathlib import Path

import numpy as np
import pytest

from ndcass.cli.main import main
from ndcass.merge import WriteOp
from ndcass.model import Channel, Dataset, Project, Token
from ndcass.object_writes import PostedObject, PostedVoxels, create_objects
from ndcass.ramon import from_json
from ndcass.store.embedded import open_embedded
from ndcass.unfinished import Work, make_note
from ndcass.volume import Usage


async def _with_a_note_left_behind(folder: Path) -> None:
    stores = await open_embedded(folder)
    try:
        user = await stores.catalog.add_user("ann")
        await stores.catalog.create_dataset(Dataset("d", 200, 200, 40, user=user.id))
        await stores.catalog.create_project(Project("p", user=user.id, dataset="d"))
        await stores.catalog.create_token(Token("t", user=user.id, project="p"))
        made = await stores.catalog.create_channel(Channel(0, "p", "anno", "annotation", "uint32"))
        await make_note(stores, made, Work.WHOLE, [7, 8], now_s=lambda: 1000.0)
    finally:
        await stores.close()


def test_what_was_left_behind_is_found_and_settled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asyncio.run(_with_a_note_left_behind(tmp_path / "data"))
    command = ["objects", "check", "t/anno", "--data", str(tmp_path / "data"), "--json"]
    assert main(command) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["left_behind"], found["settled"], found["ids"]) == (1, 0, [7, 8])
    assert main([*command, "--settle"]) == 0
    assert json.loads(capsys.readouterr().out)["settled"] == 1
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["left_behind"] == 0


async def _with_one_object_and_one_label(folder: Path) -> None:
    """Objects 7 and 8 with voxels, of which the fields of 8 are gone."""
    stores = await open_embedded(folder)
    try:
        view = await stores.catalog.token_view("t")
        channel = view.channels[0]
        mask = np.ones((1, 2, 2), dtype=np.bool_)
        posted = [
            PostedObject(
                str(i), from_json({"ann_id": i}), PostedVoxels(0, None, [((i, i, i), mask)])
            )
            for i in (7, 8)
        ]
        await create_objects(stores, view, channel, posted, WriteOp.MERGE, usage=Usage())
        await stores.objects.delete(channel.id, [8])
    finally:
        await stores.close()


def test_voxels_that_belong_to_no_object_are_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["objects", "check", "t/anno", "--data", str(tmp_path / "data"), "--json"]
    asyncio.run(_with_a_note_left_behind(tmp_path / "data"))
    assert main([*command, "--settle", "--voxels"]) == 0
    assert json.loads(capsys.readouterr().out)["strays"] == 0
    asyncio.run(_with_one_object_and_one_label(tmp_path / "data"))
    assert main(command) == 0
    assert "strays" not in json.loads(capsys.readouterr().out)
    assert main([*command, "--voxels"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["strays"], found["stray_ids"]) == (1, [8])


def test_what_is_no_channel_is_a_wrong_call(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["objects", "check", "t", "--data", str(tmp_path / "data")])
    assert ended.value.code == 2


@pytest.mark.parametrize("channel", ["t/none", "none/anno"])
def test_channels_that_are_not_there_are_refused(tmp_path: Path, channel: str) -> None:
    asyncio.run(_with_a_note_left_behind(tmp_path / "data"))
    assert main(["objects", "check", channel, "--data", str(tmp_path / "data")]) == 1
