"""Pages for people: what is public, a project, a channel."""

import asyncio
import html
import re
from typing import Any

import numpy as np
import pytest

from ndcass.propagation import LevelState
from ndcass.server import background
from ndcass.server.assets import ASSETS
from ndcass.server.html_view import level_text
from tests.server.running import Running


async def page(app: Running, path: str = "/") -> str:
    answer = await app.get(path)
    assert answer.status == 200, await answer.text()
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    return await answer.text()


async def test_empty_store_says_how_to_put_something_in(app: Running) -> None:
    text = await page(app)
    assert "ndcass ingest" in text
    assert "<img" not in text


async def test_public_volume_is_shown_with_its_extent_type_and_a_preview(app: Running) -> None:
    await app.make_volume("cortex", zoffset=5, xvoxelres=4.0, dataset_description="mouse, layer 4")
    text = await page(app)
    assert "cortex" in text
    assert "mouse, layer 4" in text
    assert "300 &times; 200 &times; 20 voxels of 4 &times; 1 &times; 1" in text
    assert "annotation, uint32" in text
    assert "<dt>z</dt><dd>5 to 24</dd>" in text
    assert 'href="/nd/sd/cortex/info/"' in text


async def test_every_link_and_picture_of_the_page_answers(app: Running) -> None:
    await app.make_volume("v", zoffset=5, scalinglevels=1)
    await app.make_volume("large", ximagesize=5000, yimagesize=3000, zimagesize=900)
    assert len(await follow_links(app, "/")) > 15


async def follow_links(app: Running, path: str) -> list[str]:
    """Every link of a page, each of which answers; those of a query are of the page itself."""
    links = re.findall(r'(?:href|src)="([^"]*)"', await page(app, path))
    found = [path.partition("?")[0] + link if link[0] == "?" else link for link in links]
    for link in dict.fromkeys(map(html.unescape, found)):
        assert await app.status(link) == 200, link
    return links


async def test_preview_is_the_middle_of_a_large_plane(app: Running) -> None:
    await app.make_volume("v", ximagesize=5000, yimagesize=3000, zimagesize=900)
    assert '"/nd/sd/v/img/xy/0/2244,2756/1244,1756/449/"' in await page(app)


async def test_preview_is_of_the_level_that_was_uploaded(app: Running) -> None:
    await app.make_volume("v", scalinglevels=2)
    path = "/nd/resource/dataset/v/project/v/channel/img/"
    assert (await app.request("PUT", path, user="admin", json={"resolution": 2})).status == 200
    assert '"/nd/sd/v/img/xy/2/0,75/0,50/9/"' in await page(app)


async def test_private_things_are_not_shown(app: Running) -> None:
    await app.make_volume("open")
    await app.make_volume("shut", public=0)
    project = {"project_name": "inside", "public": 0}
    await app.make("dataset/open/project/inside/", project)
    text = await page(app)
    assert "open" in text
    assert "shut" not in text
    assert "inside" not in text


async def test_project_without_a_public_token_is_shown_without_pictures(app: Running) -> None:
    await app.make_volume("v")
    path = "/nd/resource/dataset/v/project/v/token/v/"
    assert (await app.request("PUT", path, user="admin", json={"public": 0})).status == 200
    text = await page(app)
    assert "annotation, uint32" in text
    assert "/nd/sd/" not in text


async def test_texts_of_users_are_escaped(app: Running) -> None:
    await app.make_volume("v", dataset_description="<script>alert(1)</script>$body&amp;")
    text = await page(app)
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;$body&amp;amp;" in text
    fields = {"channel_description": "<b>&", "project_description": "<i>&"}
    path = "/nd/resource/dataset/v/project/v/"
    project = {"project_description": fields["project_description"]}
    assert (await app.request("PUT", path, user="admin", json=project)).status == 200
    channel = {"channel_description": fields["channel_description"]}
    path += "channel/img/"
    assert (await app.request("PUT", path, user="admin", json=channel)).status == 200
    for path in ("/", "/view/v/", "/view/v/img/"):
        text = await page(app, path)
        assert "<b>" not in text
        assert "<i>" not in text
        assert "&lt;b&gt;&amp;" in text


@pytest.mark.parametrize("path", ["/", "/view/v/", "/view/v/img/"])
async def test_pages_load_nothing_from_elsewhere_and_have_no_script_or_style_in_them(
    app: Running, path: str
) -> None:
    await app.make_volume("v")
    answer = await app.get(path)
    policy = dict(
        rule.split(" ", 1) for rule in answer.headers["Content-Security-Policy"].split("; ")
    )
    assert policy["default-src"] == "'none'"
    assert set(policy.values()) == {"'none'", "'self'"}
    text = await answer.text()
    assert re.findall(r"<script[^>]*>", text) == (
        [f'<script defer src="{ASSETS["console.js"].path}">'] if path == "/view/v/img/" else []
    )
    for inside in ("<style", "style=", "onclick", "http://", "https://"):
        assert inside not in text


async def test_page_answers_below_the_prefixes_too(app: Running) -> None:
    await app.make_volume("v")
    for path in ("/nd/", "/nd", "/ocp/", "/nd/view/v/", "/ocp/view/v/img"):
        assert await app.status(path) == 200


# -- a project and a channel


async def add_channel(app: Running, name: str, kind: str, datatype: str, **fields: Any) -> None:
    body = {"channel_name": name, "channel_type": kind, "channel_datatype": datatype, **fields}
    await app.make(f"dataset/v/project/v/channel/{name}/", body)


async def test_a_project_has_its_channels_and_levels(app: Running) -> None:
    await app.make_volume("v", scalinglevels=2, zvoxelres=10.0)
    text = await page(app, "/view/v/")
    assert 'href="/view/v/lab/"' in text
    assert "<td>2</td><td>75 &times; 50 &times; 20</td><td>4 &times; 4 &times; 10</td>" in text


@pytest.mark.parametrize("plane", ["xy", "xz", "yz"])
async def test_every_link_of_a_channel_answers(app: Running, plane: str) -> None:
    await app.make_volume("v", zoffset=5, scalinglevels=2, zvoxelres=3.0)
    await add_channel(app, "deep", "timeseries", "uint16", starttime=2, endtime=5)
    await add_channel(app, "prob", "image", "float32")
    for channel in ("img", "lab", "deep", "prob"):
        links = await follow_links(app, f"/view/v/{channel}/?plane={plane}&level=1")
        assert any(link.startswith(f"/nd/sd/v/{channel}/npz/1/") for link in links)
    await follow_links(app, "/view/v/")


async def test_a_channel_shows_where_it_is_and_offers_what_it_has(app: Running) -> None:
    await app.make_volume("v", zoffset=5)
    await add_channel(app, "deep", "timeseries", "uint16", starttime=2, endtime=5)
    text = await page(app, "/view/v/deep/?z=9&t=3&low=5&high=99")
    assert 'src="/nd/sd/v/deep/xy/0/0,300/0,200/9/3/window/5,99/"' in text
    assert "xy at z 9, t 3: x 0 to 299, y 0 to 199, level 0" in text
    assert '<input type="range" id="z-slider" name="z" min="5" max="24" value="9">' in text
    assert '<input type="range" id="t-slider" name="t" min="2" max="4" value="3">' in text
    for service in ("npz", "raw", "zip", "blosc", "hdf5"):
        assert f'href="/nd/sd/v/deep/{service}/0/0,300/0,200/9,10/3,4/"' in text
    plain = await page(app, "/view/v/lab/")
    assert 'name="t"' not in plain
    assert 'name="low"' not in plain


async def test_a_form_without_a_script_sends_what_it_shows(app: Running) -> None:
    await app.make_volume("v", scalinglevels=1)
    text = await page(app, "/view/v/img/?plane=xz&level=1&y=7")
    fields = dict(re.findall(r'<input[^>]* name="(\w+)"[^>]* value="([^"]*)"', text))
    assert fields == {
        "plane": "xz",
        "level": "1",
        "y": "7",
        "x": "74",
        "z": "9",
        "low": "",
        "high": "",
    }
    query = "&".join(f"{name}={value}" for name, value in fields.items())
    assert await page(app, f"/view/v/img/?{query}") == text


async def test_a_histogram_is_drawn_and_makes_the_window(
    app: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "JOB_POLL_S", 0.02)
    await app.make_volume("v")
    await add_channel(app, "deep", "image", "uint16")
    assert "<svg" not in await page(app, "/view/v/deep/")
    assert "window/0,65535/" in await page(app, "/view/v/deep/")
    voxels = np.arange(100, 301, dtype="<u2")
    path, headers = "/nd/sd/v/deep/raw/0/0,201/0,1/0,1/", {"X-Volume-Dtype": "<u2"}
    written = await app.request("POST", path, user="ann", data=voxels.tobytes(), headers=headers)
    assert written.status == 200
    await app.get("/nd/stats/v/deep/genhist/", user="ann")
    async with asyncio.timeout(20):
        while await app.status("/nd/stats/v/deep/hist/") != 200:
            await asyncio.sleep(0.02)
    text = await page(app, "/view/v/deep/")
    assert (
        '<svg role="img" aria-label="201 voxels that are not 0, from 100 to 300; mean 200.5' in text
    )
    assert "window/102,299/" in text


async def test_an_empty_histogram_is_said_to_be_empty(
    app: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "JOB_POLL_S", 0.02)
    await app.make_volume("v")
    await app.get("/nd/stats/v/img/genhist/", user="ann")
    async with asyncio.timeout(20):
        while await app.status("/nd/stats/v/img/hist/") != 200:
            await asyncio.sleep(0.02)
    assert "No voxel but zeros" in await page(app, "/view/v/img/")


def states(text: str) -> list[str]:
    """The last column of the levels."""
    return re.findall(r"<td>([^<]*)</td></tr>", text)


async def test_levels_say_how_they_are(app: Running) -> None:
    await app.make_volume("v", scalinglevels=2, zvoxelres=10.0)
    uploaded, made = "stored: what was uploaded", "made from the base when it is read"
    assert states(await page(app, "/view/v/img/")) == [uploaded, made, made]
    assert (await app.get("/nd/sd/v/img/setPropagate/1/", user="ann")).status == 200
    async with asyncio.timeout(20):
        while await (await app.get("/nd/sd/v/img/getPropagate/")).text() != "2":
            await asyncio.sleep(0.02)
    assert states(await page(app, "/view/v/img/")) == [uploaded, "fresh", "fresh"]
    assert "<dt>pyramid</dt><dd>built</dd>" in await page(app)
    path = "/nd/resource/dataset/v/project/v/channel/lab/"
    assert (await app.request("PUT", path, user="admin", json={"resolution": 1})).status == 200
    assert states(await page(app, "/view/v/lab/")) == [made, uploaded, made]


def test_levels_that_are_old_say_how_much_is() -> None:
    found = [
        LevelState(1, False, "stale", 1),
        LevelState(2, True, "stale", 30),
        LevelState(2, False, "building", 0),
    ]
    assert [level_text(level, base=0, states=found) for level in (0, 1, 2)] == [
        "stored: what was uploaded",
        "stale (1 cuboid to rebuild)",
        "near-isotropic stale (30 cuboids to rebuild); being built",
    ]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/view/nothing/", 403),
        ("/view/v/nothing/", 404),
        ("/view/v/img/?plane=zz", 400),
        ("/view/v/img/?level=1", 400),
        ("/view/v/img/?x=a", 400),
        ("/view/v/img/?low=3&high=2", 400),
        ("/view/v/img/more/", 404),
        ("/static/nothing.js", 404),
        ("/static/../setup.py", 404),
        ("/static/%2e%2e/app.py", 404),
        ("/view/shut/", 403),
        ("/view/shut/img/", 403),
    ],
)
async def test_what_is_not_there_or_makes_no_sense_is_refused(
    app: Running, path: str, status: int
) -> None:
    await app.make_volume("v")
    await app.make_volume("shut", public=0)
    assert await app.status(path) == status


async def test_files_may_be_kept_for_as_long_as_they_are_the_same(app: Running) -> None:
    for asset in ASSETS.values():
        answer = await app.get(asset.path)
        assert await answer.read() == asset.body
        assert answer.content_type == asset.content_type
        assert "immutable" in answer.headers["Cache-Control"]
        other = await app.get(f"/static/{asset.name}?older")
        assert other.headers["Cache-Control"] == "no-cache"
