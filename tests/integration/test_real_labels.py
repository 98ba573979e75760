"""A real label stack: ingested, its components posted as objects, and asked about.

What is expected is computed by numpy from the source files, on whole arrays.
"""

import csv
import functools
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import nanoarrow
import numpy as np
import numpy.typing as npt
import pytest
from nanoarrow.ipc import InputStream
from PIL import Image

from tests.annotated import contents, object_file, plain_file
from tests.components import components, places, sizes, statistics, touches
from tests.processes import KEY, Gateway, environment, gateway, run_command

Voxels = npt.NDArray[Any]
Points = npt.NDArray[np.int64]
STACK = (20, 1024, 1024)
CUBOID = np.array((16, 128, 128))
MITOCHONDRION, SYNAPSE = 191, 223
ORGANELLE_TYPE, SYNAPSE_TYPE = 6, 2
# The smallest objects are posted as lists of voxels, the others as blocks.
FEW_VOXELS = 2000
SPECK_VOXELS = 200
# In one request.
BATCH = 40
REGIONS = {
    "whole": np.s_[:, :, :],
    "unaligned": np.s_[3:17, 101:777, 35:990],
    "within one cuboid": np.s_[5:9, 400:471, 520:601],
    "thin": np.s_[19:20, 0:1024, 511:513],
}


@dataclass(frozen=True, slots=True)
class Stack:
    """A gateway that holds the stack, and the voxels of its files."""

    running: Gateway
    image: Voxels
    classes: Voxels
    made: Voxels  # of the components
    points: dict[int, Points]  # of each component, order z, y, x
    types: dict[int, int]

    def ids(self) -> list[int]:
        return sorted(self.types)

    def by_size(self) -> list[int]:
        return sorted(self.points, key=lambda label: len(self.points[label]))


def sections(folder: Path) -> Voxels:
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.iterdir())])


def command(running: Gateway, folder: Path, *words: str | Path) -> None:
    environ = environment(NDCASS_URL=running.url, NDCASS_API_KEY=KEY)
    done = run_command(words, cwd=folder, env=environ)
    assert done.code == 0, done.err


def slices_of(points: Points) -> tuple[slice, ...]:
    """The least box around some voxels."""
    return tuple(
        slice(int(a), int(b) + 1) for a, b in zip(points.min(0), points.max(0), strict=True)
    )


def members(made: Voxels, label: int, points: Points, kind: int) -> dict[str, Any]:
    """An object as it is posted."""
    fields: dict[str, Any] = {
        "ANNOTATION_TYPE": [kind],
        "RESOLUTION": [0],
        "METADATA/STATUS": [label % 5],
        "METADATA/CONFIDENCE": [label / 1000],
    }
    if len(points) <= FEW_VOXELS:
        return {**fields, "VOXELS": points[:, ::-1].astype("<u4")}
    box = slices_of(points)
    corner = [at.start for at in box[::-1]]
    mask = (made[box] == label).astype("<u4") * np.uint32(label)
    return {**fields, "CUTOUT": mask, "XYZOFFSET": np.array(corner, dtype="<u4")}


@pytest.fixture(
    scope="module",
    params=["embedded", pytest.param("cassandra", marks=pytest.mark.cassandra)],
)
def stack(
    request: pytest.FixtureRequest,
    shared: Path,
    tmp_path_factory: pytest.TempPathFactory,
    conf_of: Callable[[str], Path | None],
) -> Iterator[Stack]:
    source = shared / "data" / "drosophila-vnc"
    image, classes = sections(source / "raw"), sections(source / "labels").astype("<u4")
    organelles = components(classes == MITOCHONDRION)
    synapses = components(classes == SYNAPSE)
    for labels in (organelles, synapses):  # specks are faults of the drawing
        for flat in places(labels).values():
            if len(flat) < SPECK_VOXELS:
                labels.reshape(-1)[flat] = 0
    synapses[synapses > 0] += organelles.max()
    made = organelles + synapses
    types = {label: ORGANELLE_TYPE for label, _ in sizes(organelles)}
    types |= {label: SYNAPSE_TYPE for label, _ in sizes(synapses)}
    points = {
        label: np.stack(np.unravel_index(flat, STACK), axis=1)
        for label, flat in places(made).items()
    }
    folder = tmp_path_factory.mktemp("stack")
    with gateway(folder / "data", conf=conf_of(request.param), workers=2) as running:
        of_labels = {"channel_type": "annotation", "channel_datatype": "uint32"}
        running.create_channel(size_zyx=STACK, **of_labels)
        channels = "dataset/td/project/tp/channel"
        running.create(f"{channels}/objects/", channel_name="objects", **of_labels)
        grey = {"channel_type": "image", "channel_datatype": "uint8"}
        running.create(f"{channels}/em/", channel_name="em", **grey)
        command(running, folder, "ingest", source / "raw", "t/em")
        receipt = folder / "receipt.json"
        command(
            running, folder, "ingest", source / "labels", "t/c", "--widen", "--receipt", receipt
        )
        command(running, folder, "verify", receipt)
        ids = sorted(types)
        for first in range(0, len(ids), BATCH):
            some = ids[first : first + BATCH]
            body = object_file(*((str(i), members(made, i, points[i], types[i])) for i in some))
            answer = running.request("POST", "/nd/sd/t/objects/", data=body)
            assert (answer.status_code, answer.text) == (200, ",".join(sorted(map(str, some))))
        yield Stack(running, image, classes, made, points, types)


def box_of(region: tuple[slice, ...], *, like: Voxels) -> str:
    """A region as URLs have it."""
    spans = [at.indices(n)[:2] for at, n in zip(region, like.shape, strict=True)]
    return "/".join(f"{a},{b}" for a, b in spans[::-1])


def ask(stack: Stack, path: str, *, in_every_format: bool) -> list[list[float]]:
    """The rows of an answer as JSON, and if so wanted the others have to be the same."""
    answers = {}
    for kind in ("json", "csv", "arrow") if in_every_format else ("json",):
        answer = stack.running.request("GET", f"/nd/sd/t/{path}/?format={kind}")
        assert answer.status_code == 200, answer.text
        answers[kind] = answer
    rows: list[list[float]] = answers["json"].json()["rows"]
    if not in_every_format:
        return rows
    lines = list(csv.reader(io.StringIO(answers["csv"].text)))
    assert lines[0] == answers["json"].json()["columns"]
    assert [[float(text) for text in line] for line in lines[1:]] == rows
    stream = InputStream.from_readable(io.BytesIO(answers["arrow"].content))
    typed = nanoarrow.ArrayStream(stream).read_all().to_pylist()
    assert [list(row.values()) for row in typed] == rows
    return rows


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("channel", ["c", "objects"])
def test_answers_about_a_region_are_those_of_numpy(stack: Stack, channel: str, region: str) -> None:
    where = REGIONS[region]
    labels = (stack.classes if channel == "c" else stack.made)[where]
    box = box_of(where, like=stack.made)
    expected = sizes(labels)
    # A question to 20 million voxels takes seconds of a busy machine.
    asked = functools.partial(ask, stack, in_every_format=region != "whole")
    assert asked(f"{channel}/labels/ids/0/{box}") == [[label] for label, _ in expected]
    assert asked(f"{channel}/labels/sizes/0/{box}") == expected
    assert asked(f"{channel}/labels/touches/0/{box}") == touches(labels)
    found = asked(f"{channel}/labels/statistics/em/0/{box}")
    under = statistics(labels, stack.image[where])
    assert len(found) == len(under)
    for row, one in zip(found, under, strict=True):
        assert row == pytest.approx(one, rel=1e-9)


def test_objects_lie_where_the_components_do(stack: Stack) -> None:
    box = box_of(REGIONS["whole"], like=stack.made)
    answer = stack.running.request("GET", f"/nd/sd/t/objects/raw/0/{box}/")
    assert answer.content == stack.made.tobytes()


def read(stack: Stack, ids: list[int], words: str) -> bytes:
    answer = stack.running.request("GET", f"/nd/sd/t/objects/{','.join(map(str, ids))}/{words}/")
    assert answer.status_code == 200, answer.text
    return answer.content


def test_voxels_and_boxes_of_every_object_are_exact(stack: Stack) -> None:
    for first in range(0, len(stack.ids()), BATCH):
        some = stack.ids()[first : first + BATCH]
        voxels, boxes = read(stack, some, "voxels/0"), contents(read(stack, some, "boundingbox/0"))
        with h5py.File(io.BytesIO(voxels)) as file:
            for label in some:
                points = file[f"{label}/VOXELS"][()][:, ::-1].astype(np.int64)
                expected = stack.points[label]
                assert np.array_equal(points[np.lexsort(points.T[::-1])], expected)
                corner = expected.min(0)
                assert boxes[f"{label}/XYZOFFSET"] == corner[::-1].tolist()
                extent = expected.max(0) - corner + 1
                assert boxes[f"{label}/XYZDIMENSION"] == extent[::-1].tolist()


def some_of(stack: Stack) -> list[int]:
    """The smallest objects, some in between, and the largest."""
    ordered = stack.by_size()
    return [*ordered[:3], *ordered[len(ordered) // 2 :][:3], *ordered[-3:]]


def test_cutouts_of_objects_are_whole_cuboids_or_the_range_that_was_asked_for(
    stack: Stack,
) -> None:
    region = REGIONS["unaligned"]
    for label in some_of(stack):
        mask = stack.made == label
        box = slices_of(stack.points[label])
        start = [int(at.start // n * n) for at, n in zip(box, CUBOID, strict=True)]
        stop = [int(-(-at.stop // n) * n) for at, n in zip(box, CUBOID, strict=True)]
        with h5py.File(io.BytesIO(read(stack, [label], "cutout/0"))) as file:
            assert file[f"{label}/XYZOFFSET"][()].tolist() == start[::-1]
            tight = file[f"{label}/CUTOUT"][()]
        whole = np.zeros([b - a for a, b in zip(start, stop, strict=True)], dtype="<u4")
        inside = mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
        whole[tuple(slice(n) for n in inside.shape)][inside] = label
        assert np.array_equal(tight, whole)
        words = f"cutout/0/{box_of(region, like=mask)}"
        with h5py.File(io.BytesIO(read(stack, [label], words))) as file:
            assert np.array_equal(file[f"{label}/CUTOUT"][()], mask[region] * np.uint32(label))


def test_cuboids_of_objects_are_those_that_hold_them(stack: Stack) -> None:
    for label in some_of(stack):
        points = stack.points[label]
        expected = {tuple(row) for row in (points // CUBOID * CUBOID).tolist()}
        found: set[tuple[int, ...]] = set()
        voxels = 0
        with h5py.File(io.BytesIO(read(stack, [label], "cuboids/0"))) as file:
            for one in file[f"{label}/CUBOIDS"].values():
                corner = tuple(one["XYZOFFSET"][()][::-1].tolist())
                block = one["CUBOID"][()]
                found.add(corner)
                voxels += int(np.count_nonzero(block))
                where = tuple(slice(a, a + n) for a, n in zip(corner, CUBOID, strict=True))
                mine = stack.made[where] == label
                assert np.array_equal(block[tuple(slice(n) for n in mine.shape)] == label, mine)
        assert found == expected
        assert voxels == len(points)


def hits(stack: Stack, predicates: str, region: bytes | None = None) -> list[int]:
    path = f"/nd/sd/t/objects/query/{predicates}/"
    answer = stack.running.request("GET" if region is None else "POST", path, data=region)
    assert answer.status_code == 200, answer.text
    found: list[int] = contents(answer.content).get("ANNOIDS", [])
    return found


def test_queries_by_field_and_by_region_find_what_numpy_finds(stack: Stack) -> None:
    ids, types = stack.ids(), stack.types
    synapses = [i for i in ids if types[i] == SYNAPSE_TYPE]
    assert 0 < len(synapses) < len(ids)
    assert hits(stack, f"type/{SYNAPSE_TYPE}") == synapses
    assert hits(stack, "status/3") == [i for i in ids if i % 5 == 3]
    assert hits(stack, "confidence/lt/0.05") == [i for i in ids if i / 1000 < 0.05]
    assert hits(stack, f"type/{SYNAPSE_TYPE}/status/1") == [i for i in synapses if i % 5 == 1]
    for where in (REGIONS["unaligned"], REGIONS["within one cuboid"]):
        spans = [at.indices(n)[:2] for at, n in zip(where, STACK, strict=True)][::-1]
        region = plain_file(
            {
                "RESOLUTION": [0],
                "XYZOFFSET": [a for a, _ in spans],
                "CUTOUTSIZE": [b - a for a, b in spans],
            }
        )
        there = set(np.unique(stack.made[where]).tolist()) & set(ids)
        assert hits(stack, "", region) == sorted(there)
        assert hits(stack, "status/3", region) == [i for i in sorted(there) if i % 5 == 3]
