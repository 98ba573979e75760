"""Labels over HTTP: the one at a voxel, all of a box, some as a picture."""

import io

import numpy as np
import pytest
from PIL import Image

from ndcass.server.handlers import label
from tests.server.running import Running

BOX = "0/10,13/20,22/2,4"
LABELS = np.array([0, 5, 7, 0, 900, 5, 7, 0, 4_000_000_000, 5, 1, 0], "<u4").reshape(2, 2, 3)


@pytest.fixture(autouse=True)
async def volume(app: Running) -> None:
    await app.make_volume("v", zoffset=1, scalinglevels=3)
    assert await app.write(f"v/lab/raw/{BOX}/", LABELS) == 200


async def text(app: Running, path: str) -> str:
    answer = await app.get(f"/nd/sd/v/{path}")
    assert answer.status == 200, await answer.text()
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    return await answer.text()


@pytest.mark.parametrize("slash", ["", "/"])
async def test_a_voxel_has_one_label(app: Running, slash: str) -> None:
    assert await text(app, f"lab/id/0/11/20/2{slash}") == "5"
    assert await text(app, f"lab/id/0/12/20/3{slash}") == "4000000000"
    assert await text(app, f"lab/id/0/10/20/2{slash}") == "0"


async def test_other_levels_are_mapped_to_the_base(app: Running) -> None:
    assert await text(app, "lab/id/1/6/10/2/") == "7"  # voxel 12, 20 of the base
    await deep_channel(app, propagate=0)
    assert await text(app, "deep/id/0/23/41/2/") == "5"


async def deep_channel(app: Running, *, propagate: int) -> None:
    """Labels whose base is level 1."""
    body = {
        "channel_name": "deep",
        "channel_type": "annotation",
        "channel_datatype": "uint32",
        "resolution": 1,
        "propagate": propagate,
    }
    await app.make("dataset/v/project/v/channel/deep/", body)
    assert await app.write("v/deep/raw/1/10,13/20,22/2,4/", LABELS) == 200


async def test_a_pyramid_that_is_being_built_is_not_asked(app: Running) -> None:
    await deep_channel(app, propagate=1)
    assert await text(app, "deep/id/2/6/10/2/") == "7"


async def test_a_pyramid_that_is_there_is_asked(app: Running) -> None:
    await deep_channel(app, propagate=2)
    assert await text(app, "deep/id/2/6/10/2/") == "0"
    assert await text(app, "deep/id/0/24/40/2/") == "7"


async def test_answers_of_a_pyramid_say_whether_they_are_fresh(app: Running) -> None:
    await deep_channel(app, propagate=2)
    for path in ("id/2/6/10/2/", "ids/2/5,7/10,11/2,4/"):
        answer = await app.get(f"/nd/sd/v/deep/{path}")
        assert answer.headers["X-Volume-Fresh"] in ("true", "false")
    assert "X-Volume-Fresh" not in (await app.get("/nd/sd/v/deep/id/1/6/10/2/")).headers


async def test_the_start_time_is_what_is_asked(app: Running) -> None:
    body = {
        "channel_name": "late",
        "channel_type": "annotation",
        "channel_datatype": "uint64",
        "starttime": 4,
        "endtime": 6,
    }
    await app.make("dataset/v/project/v/channel/late/", body)
    assert await app.write("v/late/raw/0/0,1/0,1/1,2/4,5/", np.array([1 << 40], "<u8")) == 200
    assert await text(app, "late/id/0/0/0/1/") == str(1 << 40)
    assert await text(app, "late/ids/0/0,3/0,3/1,3/") == str(1 << 40)
    assert await text(app, "late/ids/0/0,3/0,3/1,3/0,4/") == ""


@pytest.mark.parametrize(
    "path",
    [
        "lab/id/0/11/20/0/",  # below the offset
        "lab/id/0/300/20/2/",
        "lab/id/4/1/1/2/",
        "lab/id/0/11/20/",
        "lab/id/0/11/20/2/3/",
        "lab/id/0/-1/20/2/",
        "img/id/0/11/20/2/",
        "none/id/0/11/20/2/",
        "id/0/11/20/2/",  # no default channel
        "lab,lab/id/0/11/20/2/",
        f"img/ids/{BOX}/",
        f"lab,lab/ids/{BOX}/",
        f"lab,0/ids/{BOX}/",
        "lab/ids/0/10,13/20,22/0,4/",
        f"img/xyanno/5/{BOX}/",
        "img/xyanno/5/0/10,13/20,22/2/",
        "lab/xyanno/0/10,13/20,22/2/",
        "lab/xyanno/x/0/10,13/20,22/2/",
        "lab/xyanno/5,/0/10,13/20,22/2/",
        "lab,lab/xyanno/5/0/10,13/20,22/2/",
    ],
)
async def test_what_is_not_there_is_not_found(app: Running, path: str) -> None:
    assert await app.status(f"/nd/sd/v/{path}") == 404


async def test_a_box_has_labels_in_order(app: Running) -> None:
    assert await text(app, f"lab/ids/{BOX}/") == "1, 5, 7, 900, 4000000000"
    assert await text(app, "lab/ids/0/10,12/20,21/2,4/") == "5, 7"
    assert await text(app, "lab/ids/0/100,112/20,21/2,4/") == ""


async def test_a_filter_holds_for_labels_too(app: Running) -> None:
    assert await text(app, f"lab/ids/{BOX}/filter/7,0,8/") == "7"


async def test_labels_without_end_are_refused(
    app: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label, "MAX_LABELS", 4)
    answer = await app.get(f"/nd/sd/v/lab/ids/{BOX}/")
    assert answer.status == 413
    assert "4 labels" in await answer.text()


@pytest.mark.parametrize(
    ("plane", "where"),
    [("xy", "0/10,13/20,22/3/"), ("xz", "0/10,13/20/2,4/"), ("yz", "0/11/20,22/2,4/")],
)
async def test_a_picture_of_some_labels_is_the_slice_with_a_filter(
    app: Running, plane: str, where: str
) -> None:
    some = await (await app.get(f"/nd/sd/v/lab/{plane}anno/5,7/{where}")).read()
    assert some == await (await app.get(f"/nd/sd/v/lab/{plane}anno/5,7/{where[:-1]}")).read()
    assert some == await (await app.get(f"/nd/sd/v/lab/{plane}/{where}filter/5,7/")).read()
    shown = np.asarray(Image.open(io.BytesIO(some)))
    assert set(np.unique(shown[..., 3])) == {0, 255}


async def test_labels_of_a_private_volume_are_private(app: Running) -> None:
    await app.make_volume("secret", user="ann", public=0)
    for path in ("id/0/0/0/0/", "ids/0/0,1/0,1/0,1/", "xyanno/1/0/0,1/0,1/0/"):
        assert await app.status(f"/nd/sd/secret/lab/{path}") == 403
        assert await app.status(f"/nd/sd/secret/lab/{path}", user="ann") == 200
