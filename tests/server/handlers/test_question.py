"""Questions over HTTP: every format, and what is refused."""

import csv
import io
import json

import nanoarrow
import numpy as np
import pytest
from nanoarrow.ipc import InputStream

from ndcass.server.formats import table
from tests.server.running import Running

BOX = "0/10,13/20,22/2,4"
LABELS = np.array([0, 5, 7, 0, 900, 5, 7, 0, 4_000_000_000, 5, 1, 0], "<u4").reshape(2, 2, 3)
SIZES = [[1, 1], [5, 3], [7, 2], [900, 1], [4_000_000_000, 1]]


@pytest.fixture(autouse=True)
async def volume(app: Running) -> None:
    await app.make_volume("v", zoffset=1, scalinglevels=3)
    assert await app.write(f"v/lab/raw/{BOX}/", LABELS) == 200


async def test_json_has_columns_and_rows(app: Running) -> None:
    answer = await app.get(f"/nd/sd/v/lab/labels/sizes/{BOX}/")
    assert answer.status == 200, await answer.text()
    assert answer.headers["Content-Type"] == "application/json"
    assert await answer.json() == {"columns": ["label", "voxels"], "rows": SIZES}


async def test_csv_has_a_line_of_names(app: Running) -> None:
    answer = await app.get(f"/sd/v/lab/labels/sizes/{BOX}?format=csv")
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    rows = list(csv.reader(io.StringIO(await answer.text())))
    assert rows == [["label", "voxels"], *([str(n) for n in row] for row in SIZES)]


@pytest.mark.parametrize("rows_at_once", [2, 1000])
async def test_arrow_is_a_stream_of_typed_columns(
    app: Running, monkeypatch: pytest.MonkeyPatch, rows_at_once: int
) -> None:
    monkeypatch.setattr(table, "ROWS_AT_ONCE", rows_at_once)
    answer = await app.get(f"/sd/v/lab/labels/sizes/{BOX}/?format=arrow")
    assert answer.headers["Content-Type"] == "application/vnd.apache.arrow.stream"
    stream = InputStream.from_readable(io.BytesIO(await answer.read()))
    found = nanoarrow.ArrayStream(stream).read_all()
    assert [[row["label"], row["voxels"]] for row in found.to_pylist()] == SIZES
    assert str(found.schema.field(0).type) == "Type.UINT64"


async def test_ids_and_touches(app: Running) -> None:
    answer = await app.get(f"/sd/v/lab/labels/ids/{BOX}/")
    assert (await answer.json())["rows"] == [[label] for label, _ in SIZES]
    answer = await app.get(f"/sd/v/lab/labels/touches/{BOX}/")
    body = await answer.json()
    assert body["columns"] == ["label", "other", "faces"]
    assert [5, 7, 3] in body["rows"]


async def test_statistics_of_an_image(app: Running) -> None:
    image = np.arange(12, dtype="u1").reshape(2, 2, 3)
    assert await app.write(f"v/img/raw/{BOX}/", image) == 200
    answer = await app.get(f"/sd/v/lab/labels/statistics/img/{BOX}/")
    body = await answer.json()
    assert body["columns"] == ["label", "voxels", "mean", "std", "min", "max"]
    under = image[LABELS == 5]
    assert body["rows"][1] == pytest.approx([5, 3, under.mean(), under.std(), 1, 9])


async def test_an_answer_without_rows_is_whole_in_every_format(app: Running) -> None:
    empty = "0/0,2/0,2/1,2"
    answer = await app.get(f"/sd/v/lab/labels/sizes/{empty}/")
    assert json.loads(await answer.text())["rows"] == []
    answer = await app.get(f"/sd/v/lab/labels/sizes/{empty}/?format=csv")
    assert await answer.text() == "label,voxels\r\n"
    answer = await app.get(f"/sd/v/lab/labels/sizes/{empty}/?format=arrow")
    stream = InputStream.from_readable(io.BytesIO(await answer.read()))
    assert len(nanoarrow.ArrayStream(stream).read_all()) == 0


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"lab/labels/sizes/{BOX}/?format=xml", 400),
        ("lab/labels/sizes/0/10,13/20,22/", 404),
        ("lab/labels/sizes/0/10,13/20,22/2,4000/", 404),
        (f"img/labels/sizes/{BOX}/", 404),
        ("lab/labels/sizes/1/5,6/10,11/2,4/", 404),
        (f"none/labels/sizes/{BOX}/", 404),
        (f"lab/labels/statistics/none/{BOX}/", 404),
        (f"lab/labels/statistics/0/{BOX}/", 404),
        (f"lab/labels/statistics/lab/{BOX}/", 404),
        (f"lab/labels/sizes/{BOX}/0,2/", 404),
    ],
)
async def test_what_cannot_be_answered_is_refused(app: Running, path: str, status: int) -> None:
    assert (await app.get(f"/nd/sd/v/{path}")).status == status
