"""The start page."""

import re

from tests.server.running import Running


async def page(app: Running) -> str:
    answer = await app.get("/")
    assert answer.status == 200
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
    links = re.findall(r'(?:href|src)="(/[^"]*)"', await page(app))
    assert len(links) > 15
    for link in links:
        assert await app.status(link) == 200, link


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


async def test_page_needs_no_script_and_loads_nothing_from_elsewhere(app: Running) -> None:
    await app.make_volume("v")
    answer = await app.get("/")
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    text = await answer.text()
    assert "<script" not in text
    assert "http://" not in text
    assert "https://" not in text


async def test_page_answers_below_the_prefixes_too(app: Running) -> None:
    for path in ("/nd/", "/nd", "/ocp/"):
        assert await app.status(path) == 200
