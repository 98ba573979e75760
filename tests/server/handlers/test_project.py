"""The resource API over HTTP, on the embedded engine."""

import io
import json
from typing import Any

import pytest

from tests.server.running import SMALL, Running

DATASET = {"dataset_name": "d", **SMALL}
RESOURCES = [
    "/nd/resource/dataset/v/",
    "/nd/resource/dataset/v/project/v/",
    "/nd/resource/dataset/v/project/v/channel/img/",
    "/nd/resource/dataset/v/project/v/token/v/",
]


async def found(app: Running, path: str, *, user: str | None = "admin") -> Any:
    answer = await app.get(f"/nd/resource/{path}", user=user)
    assert answer.status == 200, await answer.text()
    return json.loads(await answer.text())


# -- there and back


async def test_dataset_comes_back_with_exactly_the_fields_of_the_contract(app: Running) -> None:
    await app.make("dataset/test/", {"dataset_name": "test", **dict.fromkeys(SMALL, 1)})
    assert await found(app, "dataset/test/") == {
        "dataset_name": "test",
        "dataset_description": "",
        "user": 1,
        "public": 0,
        "ximagesize": 1,
        "yimagesize": 1,
        "zimagesize": 1,
        "xoffset": 0,
        "yoffset": 0,
        "zoffset": 0,
        "xvoxelres": 1.0,
        "yvoxelres": 1.0,
        "zvoxelres": 1.0,
        "scalingoption": 0,
        "scalinglevels": 0,
    }


async def test_project_comes_back_with_exactly_the_fields_of_the_contract(app: Running) -> None:
    await app.make("dataset/d/", DATASET)
    await app.make("dataset/d/project/testp/", {"project_name": "testp", "public": 1})
    assert await found(app, "dataset/d/project/testp/") == {
        "project_name": "testp",
        "project_description": "",
        "user": 1,
        "public": 1,
        "dataset": "d",
        "host": "localhost",
        "kvengine": "MySQL",
        "kvserver": "localhost",
        "mdengine": "MySQL",
        "s3backend": 1,
        "nd_version": "1.2.0",
        "schema_version": "1.1.0",
    }


async def test_channel_comes_back_with_exactly_the_fields_of_the_contract(app: Running) -> None:
    await app.make_volume("v")
    body = {
        "channel_name": "testc",
        "channel_type": "image",
        "channel_datatype": "uint8",
        "starttime": 0,
        "endtime": 0,
        "startwindow": 0,
        "endwindow": 500,
        "propagate": 1,
    }
    await app.make("dataset/v/project/v/channel/testc/", body)
    channel = await found(app, "dataset/v/project/v/channel/testc/")
    assert isinstance(channel.pop("id"), int)
    assert channel == {
        "project": "v",
        "channel_name": "testc",
        "channel_description": "",
        "channel_type": "image",
        "resolution": 0,
        "propagate": 1,
        "channel_datatype": "uint8",
        "readonly": 0,
        "exceptions": 0,
        "starttime": 0,
        "endtime": 0,
        "startwindow": 0,
        "endwindow": 500,
        "default": False,
        "header": "",
    }


async def test_token_comes_back_with_exactly_the_fields_of_the_contract(app: Running) -> None:
    await app.make_volume("v")
    assert await found(app, "dataset/v/project/v/token/v/") == {
        "token_name": "v",
        "token_description": "",
        "user": 1,
        "project": "v",
        "public": 1,
    }


async def test_deletion_answers_204_with_an_empty_body_and_frees_the_name(app: Running) -> None:
    await app.make_volume("v")
    for path in reversed(RESOURCES):
        answer = await app.request("DELETE", path, user="admin")
        assert (answer.status, await answer.read()) == (204, b"")
        assert await app.status(path, user="admin") == 404
    await app.make_volume("v")


async def test_final_slash_is_optional_everywhere(app: Running) -> None:
    await app.make_volume("v")
    for path in RESOURCES:
        assert await app.status(path.rstrip("/"), user="admin") == 200


async def test_urls_of_old_clients_reach_the_resources(app: Running) -> None:
    await app.make_volume("v")
    for path in (
        "/nd//resource/dataset/v",
        "/nd//nd/resource/dataset/v/project/v/",
        "/nd//nd/resource/dataset/v/project/",
        "/nd//nd/resource/dataset/v/project/v/token/v/",
        "/nd//nd/resource/dataset/v/project/v/channel/img/",
        "/ocp/resource/dataset/",
    ):
        assert await app.status(path, user="admin") == 200, path


# -- bad bodies change nothing


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe",
        b'{"dataset_name": "d"}',
        b"[" * 200_000,
        b'{"dataset_name": "d", "ximagesize": NaN, "yimagesize": 1, "zimagesize": 1}',
        b'{"dataset_name": "d", "ximagesize": [1], "yimagesize": 1, "zimagesize": 1}',
        b'{"dataset_name": {}, "ximagesize": 1, "yimagesize": 1, "zimagesize": 1}',
        b'{"dataset_name": "d", "ximagesize": 1'
        + b"0" * 5000
        + b', "yimagesize": 1, "zimagesize": 1}',
        b'{"dataset_name": "d", "ximagesize": 1, "yimagesize": 1, "zimagesize": 1,"zimagesize": 1}',
    ],
    ids=range(13),
)
async def test_body_that_is_no_dataset_is_refused(app: Running, body: bytes) -> None:
    answer = await app.request("POST", "/nd/resource/dataset/d/", user="admin", data=body)
    assert answer.status == 400
    text = await answer.text()
    assert len(text) < 2000
    assert "sys." not in text
    assert "recursion" not in text
    assert await app.status("/nd/resource/dataset/d/", user="admin") == 404


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset_name": "other"},
        {"unknown": 1},
        {"user": 2},
        {"ximagesize": 0},
        {"ximagesize": -1},
        {"ximagesize": 1.5},
        {"ximagesize": "many"},
        {"ximagesize": 1 << 70},
        {"xvoxelres": 0},
        {"xvoxelres": -1.0},
        {"zvoxelres": 1e-300, "yvoxelres": 1e300},
        {"xvoxelres": 1e308, "scalinglevels": 20},
        {"scalingoption": 2},
        {"scalinglevels": 21},
        {"public": 2},
        {"dataset_description": "x" * 4097},
        {"dataset_description": "\ud800"},
        {"dataset_description": None},
    ],
    ids=repr,
)
async def test_bad_field_is_refused(app: Running, changes: dict[str, Any]) -> None:
    answer = await app.request(
        "POST", "/nd/resource/dataset/d/", user="admin", json={**DATASET, **changes}
    )
    assert answer.status == 400, await answer.text()
    assert await app.status("/nd/resource/dataset/d/", user="admin") == 404


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("dataset/a b/", {"dataset_name": "a b", **SMALL}),
        ("dataset/a.b/", {"dataset_name": "a.b", **SMALL}),
        ("dataset/" + "d" * 256 + "/", {"dataset_name": "d" * 256, **SMALL}),
        ("dataset/v/project/p,q/", {"project_name": "p,q"}),
        ("dataset/v/project/v/token/a-b/", {"token_name": "a-b"}),
        ("dataset/v/project/v/token/public_tokens/", {"token_name": "public_tokens"}),
        (
            "dataset/v/project/v/channel/npz/",
            {"channel_name": "npz", "channel_type": "image", "channel_datatype": "uint8"},
        ),
        (
            "dataset/v/project/v/channel/c-d/",
            {"channel_name": "c-d", "channel_type": "image", "channel_datatype": "uint8"},
        ),
        (
            "dataset/v/project/v/channel/c/",
            {"channel_name": "c", "channel_type": "annotation", "channel_datatype": "uint8"},
        ),
        (
            "dataset/v/project/v/channel/c/",
            {"channel_name": "c", "channel_type": ["image"], "channel_datatype": "uint8"},
        ),
        (
            "dataset/v/project/v/channel/c/",
            {
                "channel_name": "c",
                "channel_type": "image",
                "channel_datatype": "uint8",
                "resolution": 3,
            },
        ),
        ("dataset/v/project/p/", {"project_name": "p", "kvengine": "Oracle"}),
    ],
    ids=lambda value: value[:60] if isinstance(value, str) else "",
)
async def test_bad_name_or_type_is_refused(app: Running, path: str, body: dict[str, Any]) -> None:
    await app.make_volume("v")
    answer = await app.request("POST", f"/nd/resource/{path}", user="admin", json=body)
    assert answer.status == 400, await answer.text()


async def test_content_type_of_a_body_is_ignored(app: Running) -> None:
    body = json.dumps(DATASET).encode()
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = await app.request(
        "POST", "/nd/resource/dataset/d/", user="admin", data=body, headers=headers
    )
    assert answer.status == 201


@pytest.mark.parametrize("announced", [True, False])
async def test_large_body_is_refused_by_its_size(app: Running, announced: bool) -> None:
    text = b" " * (1 << 20) + b"{}"

    async def pieces() -> Any:
        yield text

    answer = await app.request(
        "POST",
        "/nd/resource/dataset/d/",
        user="admin",
        data=io.BytesIO(text) if announced else pieces(),
    )
    assert answer.status == 413
    assert "1048576" in await answer.text()


async def test_key_that_is_there_twice_is_named(app: Running) -> None:
    body = b'{"dataset_name": "d", "public": 0, "public": 1}'
    answer = await app.request("POST", "/nd/resource/dataset/d/", user="admin", data=body)
    assert answer.status == 400
    assert "'public' is there more than once" in await answer.text()


# -- chains


@pytest.mark.parametrize(
    "path",
    [
        "dataset/none/",
        "dataset/none/project/v/",
        "dataset/w/project/v/",
        "dataset/v/project/none/",
        "dataset/none/project/",
        "dataset/w/project/v/channel/img/",
        "dataset/w/project/v/channel/",
        "dataset/w/project/v/token/v/",
        "dataset/w/project/v/token/",
        "dataset/v/project/v/channel/none/",
        "dataset/v/project/v/token/none/",
        "dataset/v/project/v/token/w/",
        "public/dataset/none/",
    ],
)
async def test_every_element_of_a_path_must_exist_and_belong_to_the_one_before(
    app: Running, path: str
) -> None:
    await app.make_volume("v")
    await app.make_volume("w")
    assert await app.status(f"/nd/resource/{path}", user="admin") == 404
    if not path.endswith(("channel/", "token/", "project/")) and "public" not in path:
        assert await app.status(f"/nd/resource/{path}", user="admin", method="DELETE") == 404


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("dataset/none/project/p/", {"project_name": "p"}),
        ("dataset/v/project/none/token/t/", {"token_name": "t"}),
        ("dataset/w/project/v/token/t/", {"token_name": "t"}),
        (
            "dataset/w/project/v/channel/c/",
            {"channel_name": "c", "channel_type": "image", "channel_datatype": "uint8"},
        ),
    ],
)
async def test_nothing_is_made_below_what_is_missing(
    app: Running, path: str, body: dict[str, Any]
) -> None:
    await app.make_volume("v")
    await app.make_volume("w")
    answer = await app.request("POST", f"/nd/resource/{path}", user="admin", json=body)
    assert answer.status == 400
    missing = path.split("/")[3 if "/v/project/none" in path or "/w/" in path else 1]
    assert f" {missing} " in f"{await answer.text()} "
    assert await app.status(f"/nd/resource/{path}", user="admin") == 404


# -- names that are taken


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("dataset/v/", {"dataset_name": "v", "ximagesize": 1, "yimagesize": 1, "zimagesize": 1}),
        ("dataset/v/project/v/", {"project_name": "v", "project_description": "new"}),
        ("dataset/w/project/v/", {"project_name": "v"}),
        ("dataset/v/project/v/token/v/", {"token_name": "v"}),
        ("dataset/w/project/w/token/v/", {"token_name": "v"}),
        (
            "dataset/v/project/v/channel/img/",
            {"channel_name": "img", "channel_type": "image", "channel_datatype": "uint16"},
        ),
    ],
)
async def test_name_that_is_taken_is_refused_and_nothing_changes(
    app: Running, path: str, body: dict[str, Any]
) -> None:
    await app.make_volume("v")
    await app.make_volume("w")
    before = [await found(app, path.removeprefix("/nd/resource/")) for path in RESOURCES]
    answer = await app.request("POST", f"/nd/resource/{path}", user="admin", json=body)
    assert answer.status == 409
    assert before == [await found(app, path.removeprefix("/nd/resource/")) for path in RESOURCES]


async def test_conflict_names_the_owner_to_who_may_know(app: Running) -> None:
    await app.make("dataset/d/", DATASET, user="ann")
    for user, told in (("ann", True), ("admin", True), ("bob", False)):
        answer = await app.request("POST", "/nd/resource/dataset/d/", user=user, json=DATASET)
        assert answer.status == 409
        assert ("belongs to ann" in await answer.text()) is told


# -- permission


@pytest.mark.parametrize("path", RESOURCES)
async def test_private_resource_is_for_its_owner_and_superusers(app: Running, path: str) -> None:
    await app.make_volume("v", user="ann", public=0)
    allowed = {user: await app.status(path, user=user) for user in ("ann", "admin", "bob")}
    assert allowed == {"ann": 200, "admin": 200, "bob": 403}
    assert await app.status(path) == 403


@pytest.mark.parametrize("path", RESOURCES)
async def test_public_resource_is_readable_by_all_and_changeable_by_its_owner(
    app: Running, path: str
) -> None:
    await app.make_volume("v", user="ann")
    for user in (None, "bob"):
        assert await app.status(path, user=user) == 200
        for method in ("DELETE", "PUT"):
            answer = await app.request(method, path, user=user, json={})
            assert answer.status == 403
            assert "detail" in json.loads(await answer.text())
    for user in ("ann", "admin"):
        assert (await app.request("PUT", path, user=user, json={})).status == 200
    assert await app.status(path, user="ann", method="DELETE") == 204


async def test_nobody_makes_anything_without_a_key(app: Running) -> None:
    await app.make_volume("v")
    for path in RESOURCES:
        for headers in ({}, {"Authorization": "Token placeholder"}):
            answer = await app.request("POST", path, json={}, headers=headers)
            assert answer.status == 403


async def test_projects_are_made_in_datasets_that_are_public_or_own(app: Running) -> None:
    await app.make("dataset/open/", {"dataset_name": "open", **SMALL, "public": 1}, user="ann")
    await app.make("dataset/shut/", {"dataset_name": "shut", **SMALL}, user="ann")
    await app.make("dataset/open/project/p1/", {"project_name": "p1"}, user="bob")
    await app.make("dataset/shut/project/p2/", {"project_name": "p2"}, user="ann")
    answer = await app.request(
        "POST", "/nd/resource/dataset/shut/project/p3/", user="bob", json={"project_name": "p3"}
    )
    assert answer.status == 403


async def test_channels_and_tokens_are_made_by_the_owner_of_the_project(app: Running) -> None:
    await app.make_volume("v", user="ann")
    channel = {"channel_name": "c", "channel_type": "image", "channel_datatype": "uint8"}
    for path, body in (("channel/c/", channel), ("token/t/", {"token_name": "t"})):
        url = f"/nd/resource/dataset/v/project/v/{path}"
        assert (await app.request("POST", url, user="bob", json=body)).status == 403
        assert (await app.request("POST", url, user="admin", json=body)).status == 201


async def test_owner_of_a_project_deletes_a_token_that_somebody_else_made(app: Running) -> None:
    await app.make_volume("v", user="ann")
    await app.make("dataset/v/project/v/token/t/", {"token_name": "t"}, user="admin")
    path = "/nd/resource/dataset/v/project/v/token/t/"
    assert await app.status(path, user="bob", method="DELETE") == 403
    assert await app.status(path, user="ann", method="DELETE") == 204


# -- listings


async def test_listings_show_what_is_public_and_what_is_own(app: Running) -> None:
    await app.make_volume("open", user="ann")
    await app.make_volume("shut", user="ann", public=0)
    assert await found(app, "dataset/", user=None) == ["open"]
    assert await found(app, "dataset/", user="bob") == ["open"]
    assert await found(app, "dataset/", user="ann") == ["open", "shut"]
    assert await found(app, "dataset/", user="admin") == ["open", "shut"]
    assert await found(app, "dataset/shut/project/", user="bob") == []
    assert await found(app, "dataset/shut/project/", user="ann") == ["shut"]
    assert await found(app, "dataset/open/project/", user=None) == ["open"]
    assert await found(app, "dataset/open/project/open/channel/", user=None) == ["img", "lab"]
    assert await found(app, "dataset/open/project/open/token/", user=None) == ["open"]


async def test_public_listings_show_what_is_public_to_everybody(app: Running) -> None:
    await app.make_volume("open", user="ann")
    await app.make_volume("shut", user="ann", public=0)
    for path in ("public/dataset/", "publicdataset/", "public/token/", "public/dataset/open/"):
        assert await found(app, path, user="admin") == ["open"], path
    assert await found(app, "public/dataset/shut/") == []


async def test_listing_of_a_private_project_is_private(app: Running) -> None:
    await app.make_volume("shut", user="ann", public=0)
    for what in ("channel", "token"):
        path = f"/nd/resource/dataset/shut/project/shut/{what}/"
        assert await app.status(path, user="bob") == 403
        assert await app.status(path, user="ann") == 200


@pytest.mark.parametrize("method", ["POST", "DELETE", "PUT"])
@pytest.mark.parametrize("path", ["dataset/", "dataset/v/project/", "public/token/"])
async def test_listings_answer_to_get_only(app: Running, path: str, method: str) -> None:
    answer = await app.request(method, f"/nd/resource/{path}", user="admin")
    assert answer.status == 405
    assert answer.headers["Allow"] == "GET, HEAD, OPTIONS"


# -- changes


async def test_change_answers_with_the_changed_object_and_keeps_the_rest(app: Running) -> None:
    await app.make_volume("v", user="ann")
    for path, field in zip(
        RESOURCES,
        ("dataset_description", "project_description", "channel_description", "token_description"),
        strict=True,
    ):
        before = json.loads(await (await app.get(path, user="ann")).text())
        answer = await app.request("PUT", path, user="ann", json={field: "new"})
        assert answer.status == 200
        assert json.loads(await answer.text()) == {**before, field: "new"}
        assert json.loads(await (await app.get(path, user="ann")).text())[field] == "new"


@pytest.mark.parametrize(
    "changes", [{"dataset_name": "w"}, {"user": 3}, {"unknown": 1}, {"ximagesize": 0}]
)
async def test_bad_change_is_refused(app: Running, changes: dict[str, Any]) -> None:
    await app.make_volume("v")
    answer = await app.request("PUT", RESOURCES[0], user="admin", json=changes)
    assert answer.status == 400
    assert (await found(app, "dataset/v/"))["ximagesize"] == SMALL["ximagesize"]


GEOMETRY = [
    {"ximagesize": 301},
    {"zvoxelres": 5.0},
    {"scalingoption": 1},
    {"scalinglevels": 1},
]


@pytest.mark.parametrize("changes", GEOMETRY)
async def test_geometry_changes_while_there_are_no_voxels(
    app: Running, changes: dict[str, Any]
) -> None:
    await app.make_volume("v")
    answer = await app.request("PUT", RESOURCES[0], user="admin", json=changes)
    assert answer.status == 200


@pytest.mark.parametrize("changes", GEOMETRY)
async def test_geometry_stays_once_a_channel_holds_voxels(
    app: Running, changes: dict[str, Any]
) -> None:
    await app.make_volume("v")
    assert (await app.post_ones("v")).status == 200
    answer = await app.request("PUT", RESOURCES[0], user="admin", json=changes)
    assert answer.status == 409
    assert "img holds data" in await answer.text()
    assert (await app.request("PUT", RESOURCES[0], user="admin", json={"public": 0})).status == 200


async def test_type_stays_once_the_channel_holds_voxels(app: Running) -> None:
    await app.make_volume("v")
    channel = RESOURCES[2]
    change = {"channel_datatype": "uint16"}
    assert (await app.request("PUT", channel, user="admin", json=change)).status == 200
    back = {"channel_datatype": "uint8"}
    assert (await app.request("PUT", channel, user="admin", json=back)).status == 200
    assert (await app.post_ones("v")).status == 200
    assert (await app.request("PUT", channel, user="admin", json=change)).status == 409
    assert (await app.request("PUT", channel, user="admin", json={"readonly": 1})).status == 200


async def test_new_default_channel_takes_the_place_of_the_old_one(app: Running) -> None:
    await app.make_volume("v")
    for name in ("img", "lab"):
        path = f"/nd/resource/dataset/v/project/v/channel/{name}/"
        assert (await app.request("PUT", path, user="admin", json={"default": True})).status == 200
    path = "dataset/v/project/v/channel/{}/"
    assert not (await found(app, path.format("img")))["default"]
    assert (await found(app, path.format("lab")))["default"]


# -- cascades


@pytest.mark.parametrize("deleted", RESOURCES[:2])
async def test_what_is_deleted_takes_everything_below_with_it(app: Running, deleted: str) -> None:
    await app.make_volume("v")
    await app.post_ones("v")
    assert await app.status(deleted, user="admin", method="DELETE") == 204
    for path in RESOURCES[1:]:
        assert await app.status(path, user="admin") == 404
    assert await app.status("/nd/sd/v/info/", user="admin") == 404


async def test_name_made_again_does_not_show_the_voxels_of_the_deleted_one(app: Running) -> None:
    await app.make_volume("v")
    await app.post_ones("v")
    assert await app.status(RESOURCES[0], user="admin", method="DELETE") == 204
    await app.make_volume("v")
    answer = await app.get("/nd/sd/v/img/raw/0/0,4/0,3/0,2/", user="admin")
    assert await answer.read() == bytes(24)


async def test_deleting_a_token_leaves_the_project(app: Running) -> None:
    await app.make_volume("v")
    assert await app.status(RESOURCES[3], user="admin", method="DELETE") == 204
    assert await app.status(RESOURCES[2], user="admin") == 200
