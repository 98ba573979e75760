"""Annotation objects over HTTP: what the recordings do not show."""

import asyncio
from typing import Any

import numpy as np
import pytest

from tests.annotated import block, contents, object_file, plain_file, voxels
from tests.server.annotated import ANNO, fields, made, points, post, read
from tests.server.running import Running

JSON_SYNAPSE = {"ann_type": 2, "ann_author": "ann", "syn_segments": [7, 3], "note": "x"}


# -- batches


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        ({"ANNOTATION_TYPE": [77]}, 404),
        ({"VOXELS": np.ones((2, 2), "<u4"), "RESOLUTION": [0]}, 404),
        ({"ANNOTATION_TYPE": [5], **voxels((1, 1, 1))}, 404),
        ({"CUTOUT": np.ones((1, 1, 1), "<u4")}, 400),
        ({"XYZOFFSET": [1, 2, 3]}, 400),
        (voxels((5, 5, 0)), 404),  # below the offset
        (voxels((5, 5, 5), level=9), 404),
        ({**block((5, 5, 5), (1, 1, 1)), "XYZOFFSET": np.array([2**64 - 1, 5, 5], "<u8")}, 404),
        ({**block((5, 5, 5), (1, 1, 1)), "XYZOFFSET": np.array([np.inf, 5, 5])}, 400),
        ({"VOXELS": np.array([[2**63 - 1, 5, 5]], "<u8")}, 404),
        ({"METADATA/KVPAIRS": "ann_status,3\r\n"}, 400),
        ({"METADATA/KVPAIRS": "one,two,three"}, 400),
        ({"METADATA/CONFIDENCE": "much"}, 400),
        ({"ANNOTATION_TYPE": [2], "METADATA/SEGMENTS": np.ones((3, 4), "<u4")}, 404),
        ({"ANNOTATION_TYPE": [2], "METADATA/CENTROID": [1, 2]}, 404),
    ],
)
async def test_nothing_of_a_batch_is_kept_when_one_object_is_wrong(
    annotated: Running, wrong: dict[str, Any], status: int
) -> None:
    body = object_file(("20", voxels((1, 1, 5))), ("21", wrong), ("22", {}))
    found, text = await post(annotated, "", body)
    assert (found, "21" in text) == (status, True), text
    for object_id in (20, 21, 22):
        assert await annotated.status(f"{ANNO}/{object_id}/") == 404
    assert await annotated.status(f"{ANNO}/20/voxels/0/") == 404
    assert (await annotated.read("v/anno/raw/0/0,9/0,9/1,9/")).max() == 0


async def test_a_taken_id_in_a_batch_refuses_all_of_it(annotated: Running) -> None:
    await made(annotated, object_file(("5", {})))
    status, text = await post(annotated, "", object_file(("4", {}), ("5", {}), ("6", {})))
    assert (status, "5" in text) == (404, True)
    status, _ = await post(annotated, "", object_file(("007", {}), ("7", {})))
    assert status == 404
    assert await made(annotated, object_file(("4", {}), ("6", {}), ("7", {}))) == "4,6,7"


async def test_ids_are_assigned_in_the_order_of_the_names(annotated: Running) -> None:
    body = object_file(("10", {}), ("9", {}), ("noid.0", {}), ("noid.1", {}))
    assert await made(annotated, body) == "10,9,11,12"
    assert await made(annotated, object_file(("0", {}))) == "13"


async def test_a_chosen_id_goes_to_one_of_many_who_post_it_at_once(annotated: Running) -> None:
    bodies = [object_file(("50", {"METADATA/AUTHOR": f"a{n}"})) for n in range(6)]
    answers = await asyncio.gather(*(post(annotated, "", body) for body in bodies))
    assert sorted(status for status, _ in answers) == [200] + [404] * 5
    winner = [status for status, _ in answers].index(200)
    assert (await fields(annotated, 50))["ann_author"] == f"a{winner}"


async def test_ids_of_posts_at_once_are_all_different(annotated: Running) -> None:
    body = object_file(("a", {}), ("b", {}))
    answers = await asyncio.gather(*(post(annotated, "", body) for _ in range(8)))
    ids = [int(i) for _, text in answers for i in text.split(",")]
    assert sorted(ids) == list(range(1, 17))


async def test_a_deleted_id_may_be_posted_again(annotated: Running) -> None:
    await made(annotated, object_file(("8", voxels((1, 1, 5)))))
    answer = await annotated.request("DELETE", f"{ANNO}/8,,9/", user="ann")
    assert (answer.status, await answer.text()) == (200, "Success")
    assert (await annotated.read("v/anno/raw/0/0,9/0,9/1,9/")).max() == 0
    await made(annotated, object_file(("8", {})))
    assert await points(annotated, 8) == []


async def test_ids_beyond_the_type_of_the_channel_are_refused(annotated: Running) -> None:
    body = object_file((str(1 << 32), voxels((1, 1, 5))))
    assert (await post(annotated, "", body))[0] == 400
    answer = await annotated.request("POST", "/nd/sd/v/wide/", user="ann", data=body)
    assert (answer.status, await answer.text()) == (200, str(1 << 32))
    found = contents(await (await annotated.get(f"/nd/sd/v/wide/{1 << 32}/voxels/0/")).read())
    assert found[f"{1 << 32}/VOXELS"] == [[1, 1, 5]]


@pytest.mark.parametrize("path", ["", "update/", "dataonly/", "reduce/", "json/"])
async def test_nothing_is_posted_to_a_read_only_channel(annotated: Running, path: str) -> None:
    body = b"{}" if "json" in path else object_file(("1", {}))
    answer = await annotated.request("POST", f"/nd/sd/v/ro/{path}", user="ann", data=body)
    assert answer.status == 404
    assert await annotated.status("/nd/sd/v/ro/1/", user="ann", method="DELETE") == 404


async def test_strangers_may_not_write(annotated: Running) -> None:
    for method, path in (
        ("POST", ""), ("POST", "json/"), ("DELETE", "1/"), ("GET", "setField/1/status/1/"),
        ("GET", "merge/1,2/"), ("POST", "swc/"),
    ):  # fmt: skip
        assert await annotated.status(f"{ANNO}/{path}", method=method) == 403, path


# -- files


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"", 400), (b"no file", 400), (object_file(), 404)],
)
async def test_bodies_without_objects_are_refused(
    annotated: Running, body: bytes, status: int
) -> None:
    assert (await post(annotated, "", body))[0] == status


async def test_every_cut_of_a_file_is_refused_and_changes_nothing(annotated: Running) -> None:
    body = object_file(("3", {**block((1, 1, 5), (4, 20, 20)), "METADATA/AUTHOR": "someone"}))
    for stop in range(1, len(body), len(body) // 25):
        status, _ = await post(annotated, "", body[:stop])
        assert status in (400, 404), stop
    assert await annotated.status(f"{ANNO}/3/") == 404


async def test_segments_with_directions_become_three_lists(annotated: Running) -> None:
    rows = np.array([(7, 1), (3, 2), (4, 3)], dtype="<u4")
    await made(annotated, object_file(("1", {"ANNOTATION_TYPE": [2], "METADATA/SEGMENTS": rows})))
    found = await fields(annotated, 1)
    assert found["syn_segments"] == [7, 3, 4]
    assert (found["syn_presegments"], found["syn_postsegments"]) == ([7, 4], [3, 4])
    assert (await read(annotated, "1/"))["1/METADATA/SEGMENTS"] == [7, 3, 4]


async def test_what_a_node_says_comes_back_as_hdf5(annotated: Running) -> None:
    sent = {
        "ANNOTATION_TYPE": np.array([7], "<u4"),
        "METADATA/NODETYPE": [2],
        "METADATA/PARENTID": np.array([-1], "<i4"),
        "METADATA/SKELETONID": [9],
        "METADATA/RADIUS": [1.5],
        "METADATA/LOCATION": [1.5, 2.0, 3.25],
        "METADATA/KVPAIRS": "a,1\nb,two words",
    }
    await made(annotated, object_file(("4", sent)))
    found = await read(annotated, "4/")
    for name, value in sent.items():
        if "KVPAIRS" not in name:
            assert found[f"4/{name}"] == np.asarray(value).tolist(), name
    assert found["4/METADATA/KVPAIRS"] == ["a,1\r\nb,two words\r\n"]


@pytest.mark.parametrize("kind", range(1, 10))
async def test_every_type_can_be_read_empty_and_posted_again(annotated: Running, kind: int) -> None:
    await made(annotated, {"o": {"ann_type": kind, "ann_id": 30}})
    answer = await annotated.get(f"{ANNO}/30/")
    assert answer.status == 200
    before = await fields(annotated, 30)
    await made(annotated, await answer.read(), "update/")
    assert await fields(annotated, 30) == before


# -- voxels


async def test_several_kinds_of_voxels_of_one_object_are_all_taken(annotated: Running) -> None:
    sent: dict[str, Any] = {**voxels((100, 100, 3)), **block((10, 10, 5), (1, 1, 2))}
    sent["CUBOIDS/a/XYZOFFSET"] = [128, 0, 0]  # counted from zero
    sent["CUBOIDS/a/CUBOID"] = np.ones((1, 1, 1), "<u4")
    await made(annotated, object_file(("2", sent)))
    wanted = [[10, 10, 5], [11, 10, 5], [100, 100, 3], [128, 0, 1]]
    assert await points(annotated, 2) == wanted


async def test_voxels_of_many_small_objects_come_in_one_answer(annotated: Running) -> None:
    # By the index alone, each could be all of its cuboid.
    ids = range(1, 81)
    await made(annotated, object_file(*((str(i), voxels((i, 3, 5))) for i in ids)))
    found = await read(annotated, f"{','.join(map(str, ids))}/voxels/0")
    assert [found[f"{i}/VOXELS"] for i in ids] == [[[i, 3, 5]] for i in ids]


async def test_boxes_are_exact_and_in_dataset_coordinates(annotated: Running) -> None:
    await made(annotated, object_file(("2", voxels((130, 5, 2), (140, 60, 9)))))
    found = await read(annotated, "2/boundingbox/0/")
    assert (found["2/XYZOFFSET"], found["2/XYZDIMENSION"]) == ([130, 5, 2], [11, 56, 8])
    assert "2/VOXELS" not in found
    answer = await annotated.get("/nd/ramon/v/anno/2/boundingbox/")
    document = await answer.json()
    assert (document["bbcorner"], document["bbdim"]) == ([130, 5, 2], [11, 56, 8])
    await made(annotated, object_file(("3", {})))
    assert "3/XYZOFFSET" not in await read(annotated, "3/boundingbox/0/")
    assert (await (await annotated.get("/ramon/v/anno/3/boundingbox/0/")).json())["bbdim"] is None


async def test_cuboids_come_whole_and_counted_from_zero(annotated: Running) -> None:
    await made(annotated, object_file(("2", voxels((130, 5, 2)))))
    found = await read(annotated, "2/cuboids/0/")
    [(corner, cuboid)] = [
        (value, found[path.replace("XYZOFFSET", "CUBOID")])
        for path, value in found.items()
        if path.endswith("XYZOFFSET")
    ]
    x, y, z = corner
    assert np.argwhere(cuboid).tolist() == [[2 - 1 - z, 5 - y, 130 - x]]
    assert np.max(cuboid) == 2


async def test_exceptions_are_in_every_read_of_an_object(annotated: Running) -> None:
    await made(annotated, object_file(("1", block((10, 10, 5), (1, 2, 2)))))
    await made(annotated, object_file(("2", voxels((10, 10, 5), (50, 50, 5)))), "exception/")
    assert await points(annotated, 2) == [[10, 10, 5], [50, 50, 5]]
    found = await read(annotated, "2/cutout/0/10,12/10,12/5,6/")
    assert found["2/CUTOUT"] == [[[2, 0], [0, 0]]]
    answer = await annotated.get(f"{ANNO}/exceptions/0/0,60/0,60/1,9/")
    assert contents(await answer.read())["exceptions"] == [[10, 10, 5, 1, 2]]
    answer = await annotated.get(f"{ANNO}/exceptions/0/30,60/0,60/1,9/")
    assert contents(await answer.read())["exceptions"] == [0, 0, 0]
    assert await annotated.status("/nd/sd/v/plain/exceptions/0/0,60/0,60/1,9/") == 404
    region = {"XYZOFFSET": [10, 10, 5], "CUTOUTSIZE": [1, 1, 1], "RESOLUTION": [0]}
    answer = await annotated.request("POST", f"{ANNO}/query/", data=plain_file(region))
    assert contents(await answer.read())["ANNOIDS"] == [1, 2]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("2/voxels/", 404),
        ("2/cutout", 400),
        ("2/voxels/x/", 404),
        ("2/voxels/9/", 404),
        ("2/sheep/0/", 404),
        ("2/cutout/0/0,900/0,9/1,9/", 404),
        ("2/cutout/0/0,5/0,9/", 404),
        ("3/voxels/0/", 404),  # a seed
        ("99/", 404),
        ("2,99/json/", 404),
        (",/", 404),
        (f"2,{10**30}/", 404),
    ],
)
async def test_reads_that_make_no_sense_are_refused(
    annotated: Running, path: str, status: int
) -> None:
    await made(annotated, {"o": {"ann_id": 2}})
    await made(annotated, {"o": {"ann_id": 3, "ann_type": 3}})
    assert await annotated.status(f"{ANNO}/{path}") == status


async def test_an_object_that_is_named_twice_comes_once(annotated: Running) -> None:
    await made(annotated, {"o": {"ann_id": 2}})
    assert "2/ANNOTATION_TYPE" in await read(annotated, "2,2,/nodata/")


async def test_a_remap_at_the_end_of_a_read_says_nothing(annotated: Running) -> None:
    await made(annotated, object_file(("2", voxels((1, 1, 5)))))
    for path in ("", "nodata/", "voxels/0/", "cutout/0/", "cutout/0/0,3/0,3/4,6/"):
        plain = await read(annotated, f"2/{path}")
        assert await read(annotated, f"2/{path}remap/") == plain


async def test_a_neuron_shows_its_segments_in_its_own_colour(annotated: Running) -> None:
    for object_id in (4, 5):
        sent = {
            "ANNOTATION_TYPE": [4],
            "METADATA/NEURON": [9],
            **block((object_id, 0, 5), (1, 1, 1)),
        }
        await made(annotated, object_file((str(object_id), sent)))
    await made(annotated, {"o": {"ann_id": 9, "ann_type": 5}})
    assert await points(annotated, 9) == [[4, 0, 5], [5, 0, 5]]
    box = "0/0,20/0,20/5/"
    neuron = await (await annotated.get(f"{ANNO}/xyanno/9/{box}")).read()
    # The same voxels painted with the neuron's own label make the same picture.
    await made(annotated, object_file(("9", block((4, 0, 5), (1, 1, 2)))), "dataonly/")
    painted = await (await annotated.get(f"{ANNO}/xy/{box}")).read()
    assert neuron == painted


# -- JSON


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 404),
        ({"a": JSON_SYNAPSE, "b": JSON_SYNAPSE}, 404),
        ({"a": []}, 400),
        ({"a": {"ann_type": "2"}}, 400),
        ({"a": {"ann_type": 44}}, 400),
        ({"a": {"x": {"nested": 1}}}, 400),
        ({"a": {"ann_id": 1 << 32}}, 400),
    ],
)
async def test_json_that_is_no_object_is_refused(
    annotated: Running, body: dict[str, Any], status: int
) -> None:
    assert (await post(annotated, "json/", body))[0] == status


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"\xff"])
async def test_bodies_that_are_no_json_are_malformed(annotated: Running, body: bytes) -> None:
    assert (await post(annotated, "json/", body))[0] == 400


async def test_pairs_with_several_values_come_back_as_a_list(annotated: Running) -> None:
    await made(annotated, {"0": {"ann_id": 6, "tags": ["a", "b"], "one": ["x"]}})
    found = await fields(annotated, 6)
    assert (found["tags"], found["one"]) == (["a", "b"], "x")
    assert (await read(annotated, "6/"))["6/METADATA/KVPAIRS"] == ["tags,a\r\ntags,b\r\none,x\r\n"]
    answer = await annotated.get(f"{ANNO}/getField/6/tags/")
    assert await answer.text() == "a,b"
    answer = await annotated.get(f"{ANNO}/query/tags/b/")
    assert contents(await answer.read())["ANNOIDS"] == [6]
