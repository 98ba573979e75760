import asyncio
import json
from pathlib import Path

import pytest

from ndcass.cli.main import main
from ndcass.model import Channel, Dataset, Project, Token
from ndcass.store.embedded import open_embedded
from ndcass.unfinished import Work, make_note


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


@pytest.mark.parametrize(("channel", "code"), [("t", 2), ("t/none", 1), ("none/anno", 1)])
def test_channels_that_are_not_there_are_refused(tmp_path: Path, channel: str, code: int) -> None:
    asyncio.run(_with_a_note_left_behind(tmp_path / "data"))
    assert main(["objects", "check", channel, "--data", str(tmp_path / "data")]) == code
