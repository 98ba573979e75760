"""Queries, fields and merges over HTTP: what the recordings do not show."""

import asyncio
import sys
from pathlib import Path

import pytest

from tests.annotated import block, contents, object_file, voxels
from tests.server.annotated import ANNO, fields, made, points, read
from tests.server.running import Running


async def ids(app: Running, path: str) -> list[int]:
    answer = await app.get(f"{ANNO}/query/{path}")
    assert answer.status == 200, await answer.text()
    found: list[int] = contents(await answer.read()).get("ANNOIDS", [])
    return found


async def test_predicates_are_anded_and_each_id_comes_once(annotated: Running) -> None:
    for n in range(1, 7):
        await made(
            annotated,
            {"o": {"ann_id": n, "ann_type": 2, "ann_status": n % 2, "ann_confidence": n / 10,
                   "syn_segments": [n, 99], "who": "me" if n < 4 else "you"}},
        )  # fmt: skip
    assert await ids(annotated, "") == [1, 2, 3, 4, 5, 6]
    assert await ids(annotated, "limit/2") == [1, 2]
    assert await ids(annotated, "status/1/who/me/") == [1, 3]
    assert await ids(annotated, "confidence/gt/0.2//confidence/lt/0.5/") == [3, 4]
    assert await ids(annotated, "type/2/confidence/gt/0.2/limit/1/") == [3]
    assert await ids(annotated, "syn_segments/99/syn_segments/5/") == [5]
    assert await ids(annotated, "who/nobody/") == []
    answer = await annotated.get("/nd/ramon/v/anno/query/ann_confidence/0.3/")
    assert await answer.json() == [3]
    answer = await annotated.get("/nd/ramon/v/anno/topkeys/3/type/2/")
    assert await answer.json() == [["syn_segments"], ["ann_author"], ["ann_confidence"]]
    answer = await annotated.get("/nd/ramon/v/anno/topkeys/type/5/")
    assert await answer.json() == []


@pytest.mark.parametrize(
    "path",
    ["confidence/ge/0.5/", "confidence/lt/", "status/many/", "who/", "limit/-1/", "limit/x/"],
)
async def test_queries_that_make_no_sense_are_refused(annotated: Running, path: str) -> None:
    assert await annotated.status(f"{ANNO}/query/{path}") == 400


async def test_only_annotations_are_asked(annotated: Running) -> None:
    assert await annotated.status("/nd/sd/v/img/query/type/2/") == 404
    assert await annotated.status("/nd/ramon/v/img/query/ann_type/2/") == 404


async def test_fields_set_at_once_all_last(annotated: Running) -> None:
    await made(annotated, {"o": {"ann_id": 1, "ann_type": 2}})
    names = ["status", "weight", "synapse_type", *(f"key{n}" for n in range(6))]
    answers = await asyncio.gather(
        *(
            annotated.get(f"{ANNO}/setField/1/{name}/{n}/", user="ann")
            for n, name in enumerate(names)
        )
    )
    assert {answer.status for answer in answers} == {200}
    assert {answer.headers["Cache-Control"] for answer in answers} == {"no-store"}
    for n, name in enumerate(names):
        answer = await annotated.get(f"{ANNO}/getField/1/{name}/")
        assert float(await answer.text()) == n, name


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("1/status/aa/", 400),
        ("1/confidence/1,2/", 400),
        ("1/centroid/1,2/", 404),
        ("1/type/3/", 404),
        ("1/annid/3/", 404),
        ("1/seg_neuron/3/", 400),
        ("77/status/1/", 404),
        ("status/1/1/", 404),
    ],
)
async def test_fields_that_cannot_be_set_are_refused_and_stay(
    annotated: Running, path: str, status: int
) -> None:
    await made(annotated, {"o": {"ann_id": 1, "ann_type": 2, "ann_status": 5}})
    before = await fields(annotated, 1)
    for method in ("GET", "POST", "PUT"):
        assert (
            await annotated.status(f"{ANNO}/setField/{path}", user="ann", method=method) == status
        )
    assert await fields(annotated, 1) == before


async def test_floats_come_back_as_the_shortest_exact_text(annotated: Running) -> None:
    await made(annotated, {"o": {"ann_id": 1, "ann_type": 7, "node_radius": 0.1 + 0.2}})
    answer = await annotated.get(f"{ANNO}/getField/1/radius/")
    assert await answer.text() == "0.30000000000000004"
    await annotated.get(f"{ANNO}/setField/1/location/1.5,2,3.25/", user="ann")
    answer = await annotated.get(f"{ANNO}/getField/1/location/")
    assert await answer.text() == "1.5,2,3.25"


async def test_merging_gives_everything_to_the_first(annotated: Running) -> None:
    await made(annotated, object_file(("1", voxels((1, 1, 5))), ("2", block((2, 1, 5), (1, 1, 2)))))
    answer = await annotated.get(f"{ANNO}/merge/1,2/global/0/", user="ann")
    assert (answer.status, await answer.text()) == (200, "Merged Id's [1 2] into 1")
    assert await points(annotated, 1) == [[1, 1, 5], [2, 1, 5], [3, 1, 5]]
    assert await annotated.status(f"{ANNO}/2/") == 404
    for path, status in (("1/", 400), ("1,1/", 400), ("1,2/", 404), ("1,2/global/9/", 404)):
        found = await annotated.status(f"{ANNO}/merge/{path}", user="ann", method="POST")
        assert found == status, path


async def test_csv_has_every_field_and_the_box(annotated: Running) -> None:
    await made(annotated, object_file(("1", {"METADATA/STATUS": [4], **voxels((1, 1, 5))})))
    answer = await annotated.get(f"{ANNO}/csv/1/0/")
    lines = (await answer.text()).splitlines()
    assert lines == sorted(lines)
    assert {"STATUS,4", "XYZOFFSET,[1 1 5]", "XYZDIMENSION,[1 1 1]"} <= set(lines)


async def test_a_skeleton_goes_out_as_it_came_in(annotated: Running) -> None:
    text = "# mine\n1 1 100.5 200.25 30.0 1.5 -1\n2 1 101.0 201.0 30.0 1.0 1\n"
    answer = await annotated.request("POST", f"{ANNO}/swc/", user="ann", data=text.encode())
    assert (answer.status, await answer.text()) == (200, "1")
    for path in ("swc/", "swc/1/"):
        lines = (await (await annotated.get(f"{ANNO}/{path}")).text()).splitlines()
        assert lines[0].startswith("# ND (NeuroData) Version")
        assert "# mine" in lines
        assert lines[-2:] == ["2 1 100.5 200.25 30.0 1.5 -1", "3 1 101.0 201.0 30.0 1.0 2"]
    assert await annotated.status(f"{ANNO}/swc/77/") == 404
    answer = await annotated.get(f"{ANNO}/getField/1/nodes/")
    assert await answer.text() == "2,3"


async def test_a_graph_has_an_edge_a_synapse_in_the_box(annotated: Running) -> None:
    for n, (a, b) in enumerate(((7, 3), (7, 4), (3, 9), (5, 4)), start=1):
        sent = {"ANNOTATION_TYPE": [2], "METADATA/SEGMENTS": [a, b], **voxels((1, 1, n))}
        await made(annotated, object_file((str(n), sent)))
    graph = "/ndgraph/v/anno"
    answer = await annotated.get(f"{graph}/edgelist/")
    edges = {frozenset(line.split()[:2]) for line in (await answer.text()).splitlines()}
    assert edges == {frozenset(pair) for pair in ("73", "74", "39", "54")}
    assert answer.headers["Content-Disposition"] == 'attachment; filename="output.edgelist"'
    answer = await annotated.get(f"{graph}/edgelist/0,7/0,8/1,4/")
    assert len((await answer.text()).splitlines()) == 3
    answer = await annotated.get(f"{graph}/adjlist/")
    comment, *lines = (await answer.text()).splitlines()
    assert comment.startswith("#")
    assert Path(sys.argv[0]).name not in comment
    assert sum(len(line.split()) - 1 for line in lines) == 4
    assert b"<graphml" in await (await annotated.get(graph)).read()
    for path, status in (("yaml/", 400), ("gml/90,99/90,99/1,4/", 404), ("gml/x/", 404)):
        assert await annotated.status(f"{graph}/{path}") == status
    assert await annotated.status("/ndgraph/none/anno/") == 403


async def test_relations_come_in_the_file_of_an_object(annotated: Running) -> None:
    await made(annotated, {"o": {"ann_id": 1, "ann_type": 4}})
    await made(annotated, {"o": {"ann_id": 2, "ann_type": 2, "syn_segments": [1, 5]}})
    await made(annotated, {"o": {"ann_id": 3, "ann_type": 5}})
    found = await read(annotated, "1,3/")
    assert found["1/METADATA/SYNAPSES"] == [2]
    assert found["3/METADATA/SEGMENTS"] == []
