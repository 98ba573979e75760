"""Measures annotation objects over HTTP: posting them, reading their voxels, finding them by field.

``python -m bench.objects --output FILE`` measures the embedded engine; the same runs on Cassandra
as a part of ``python -m bench.on_cassandra``.
"""

import argparse
import asyncio
import io
import statistics
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import h5py
import numpy as np

from bench.clients import KEY, Client, Server, serve_ndcass
from bench.end_to_end import Result, report, timed
from ndcass.store.base import StoredObject, Stores
from ndcass.store.embedded import open_embedded

CUBOID_ZYX = (16, 128, 128)
# Cuboids along each axis: a grid of a million.
SIDE = 100
SYNAPSES, SYNAPSE_ZYX = 40, (3, 8, 8)
SCATTERED_CUBOIDS, SCATTERED_VOXELS = 20, 10_000
OBJECTS, HITS = 1_000_000, 100
FILLED_AT_ONCE = 5000
QUERIES = 40
SEGMENT_TYPE, ORGANELLE_TYPE = 4, 6


@dataclass(frozen=True, slots=True)
class Engine:
    """Where objects are kept: a gateway on it, and the store itself, to be filled quickly."""

    serve: Callable[[], AbstractContextManager[Server]]
    open: Callable[[], Awaitable[Stores]]
    objects: int = OBJECTS


def main() -> int:
    """Measure the embedded engine and report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("build/bench-objects.json"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--objects", type=int, default=OBJECTS, help="that queries are about")
    parser.add_argument("--only", action="append", help="part of a name; may be repeated")
    options = parser.parse_args()
    names = [n for n in MEASURES if not options.only or any(part in n for part in options.only)]
    measures = {name: partial(_on_embedded, name, options.objects) for name in MEASURES}
    report(names, options.rounds, options.output, measures)
    return 0


def _on_embedded(name: str, objects: int, rounds: int) -> Iterator[Result]:
    with embedded(objects) as engine:
        yield from MEASURES[name](engine, rounds)


@contextmanager
def embedded(objects: int) -> Iterator[Engine]:
    """A folder of its own."""
    with tempfile.TemporaryDirectory(prefix="ndcass-bench-") as name:
        folder = Path(name)
        serve = partial(serve_ndcass, workers=1, folder=folder)
        yield Engine(serve, partial(open_embedded, folder), objects)


def prepare(client: Client, token: str) -> None:
    """An empty channel ``anno`` of labels behind a token."""
    sizes = [SIDE * n for n in CUBOID_ZYX]
    dataset = {"dataset_name": token, "zvoxelres": 10.0}
    dataset |= {f"{axis}imagesize": n for axis, n in zip("zyx", sizes, strict=True)}
    path = f"/nd/resource/dataset/{token}/"
    client.create(path, dataset)
    path += f"project/{token}/"
    client.create(path, {"project_name": token})
    labels = {"channel_type": "annotation", "channel_datatype": "uint32"}
    client.create(f"{path}channel/anno/", {"channel_name": "anno", **labels})
    client.create(f"{path}token/{token}/", {"token_name": token})


# -- posting


def posting(engine: Engine, rounds: int) -> Iterator[Result]:
    """Small synapses, all in one request and one by one."""
    rng = np.random.default_rng(5)
    together_s, single_s = [], []
    with engine.serve() as server:
        client = Client(server)
        prepare(client, "posting")
        path = "/nd/sd/posting/anno/"
        for turn in range(rounds + 1):
            synapses = [_synapse(rng) for _ in range(2 * SYNAPSES)]
            one = _file(synapses[:SYNAPSES])
            each = [_file([synapse]) for synapse in synapses[SYNAPSES:]]
            times = timed(partial(client.post_body, path, one)), timed(partial(_post, client, each))
            if turn:
                together_s.append(times[0])
                single_s.append(times[1])
    yield Result(
        f"posting {SYNAPSES} small synapses in one request / one by one, objects a second",
        statistics.median(b / a for a, b in zip(together_s, single_s, strict=True)),
        5,
        15,
        smaller_is_better=False,
        detail={
            "together_a_second": SYNAPSES / statistics.median(together_s),
            "single_a_second": SYNAPSES / statistics.median(single_s),
            "least": min(b / a for a, b in zip(together_s, single_s, strict=True)),
            "most": max(b / a for a, b in zip(together_s, single_s, strict=True)),
        },
    )


def _post(client: Client, bodies: Sequence[bytes]) -> None:
    for body in bodies:
        client.post_body("/nd/sd/posting/anno/", body)


def _synapse(rng: np.random.Generator) -> dict[str, Any]:
    """A flat lump of voxels somewhere in 64 cuboids."""
    points = np.argwhere(rng.random(SYNAPSE_ZYX) < 0.8)
    corner = rng.integers(0, np.array(CUBOID_ZYX) * 4 - np.array(SYNAPSE_ZYX))
    return {
        "ANNOTATION_TYPE": [2],
        "RESOLUTION": [0],
        "VOXELS": (points + corner)[:, ::-1].astype("<u4"),
        "METADATA/WEIGHT": [0.5],
        "METADATA/SEGMENTS": np.array([3, 7], dtype="<u4"),
    }


def _file(objects: Sequence[Mapping[str, Any]]) -> bytes:
    """A file of objects that want ids."""
    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        for number, members in enumerate(objects):
            group = file.create_group(f"new{number}")
            for path, value in members.items():
                group.create_dataset(path, data=value)
    return out.getvalue()


# -- reading voxels


def scattered(engine: Engine, rounds: int) -> Iterator[Result]:
    """The voxels of an object of a sparse channel, and one cuboid of it."""
    rng = np.random.default_rng(1)
    cuboids = rng.integers(0, SIDE, (SCATTERED_CUBOIDS, 3))
    each = SCATTERED_VOXELS // SCATTERED_CUBOIDS
    points = np.concatenate(
        [cuboid * CUBOID_ZYX + rng.integers(0, (8, 60, 60), (each, 3)) for cuboid in cuboids]
    )
    members = {"RESOLUTION": [0], "VOXELS": points[:, ::-1].astype("<u4")}
    object_s, one_s = [], []
    with engine.serve() as server:
        client = Client(server)
        prepare(client, "scattered")
        client.post_body("/nd/sd/scattered/anno/", _file([members]))
        spans = [f"{at * n},{(at + 1) * n}" for at, n in zip(cuboids[0], CUBOID_ZYX, strict=True)]
        box = "/".join(spans[::-1])
        for turn in range(8 * rounds + 3):
            times = [
                timed(partial(client.drain, f"/nd/sd/scattered/anno/{path}/"))
                for path in ("1/voxels/0", f"raw/0/{box}")
            ]
            if turn >= 3:
                object_s.append(times[0])
                one_s.append(times[1])
    ratios = [a / b for a, b in zip(object_s, one_s, strict=True)]
    yield Result(
        "object of 10,000 voxels in 20 cuboids of a grid of a million / one cuboid",
        statistics.median(ratios),
        10,
        3,
        smaller_is_better=True,
        detail={
            "object_ms": 1e3 * statistics.median(object_s),
            "cuboid_ms": 1e3 * statistics.median(one_s),
            "p10": statistics.quantiles(ratios, n=10)[0],
            "p90": statistics.quantiles(ratios, n=10)[-1],
        },
    )


# -- queries


def queries(engine: Engine, rounds: int) -> Iterator[Result]:
    """Objects by field, a hundred hits each, among very many."""
    with engine.serve() as server:
        prepare(Client(server), "queries")
        fill_s = timed(lambda: asyncio.run(_fill(engine)))
        client = Client(server)  # the other has idled for too long
        for name, paths in _asked(engine.objects).items():
            times_ms = []
            for turn in range(rounds * QUERIES // 7 + 3):
                path = f"/nd/sd/queries/anno/query/{paths(turn)}/"
                if turn == 0:
                    _check_hits(server, path)
                took_ms = 1e3 * timed(partial(client.drain, path))
                if turn >= 3:
                    times_ms.append(took_ms)
            cuts = statistics.quantiles(times_ms, n=10)
            yield Result(
                f"query of {engine.objects:,} objects by {name}, {HITS} hits, p50 ms",
                statistics.median(times_ms),
                50,
                10,
                smaller_is_better=True,
                detail={"p10_ms": cuts[0], "p90_ms": cuts[-1], "fill_s": fill_s},
            )


def _check_hits(server: Server, path: str) -> None:
    url = f"http://127.0.0.1:{server.port}{path}"
    request = Request(url, headers={"Authorization": f"Token {KEY}"})
    with urlopen(request) as answer, h5py.File(io.BytesIO(answer.read())) as file:  # noqa: S310
        hits = len(file["ANNOIDS"])
    if not 0.9 * HITS <= hits <= 1.1 * HITS:
        raise RuntimeError(f"{path} has {hits} hits, {HITS} are measured")


def _asked(objects: int) -> dict[str, Callable[[int], str]]:
    """Predicates by what they are about, other ones each turn where there are others."""
    groups = objects // HITS
    share = HITS / objects
    return {
        "type": lambda _: f"type/{ORGANELLE_TYPE}",
        "status": lambda turn: f"status/{turn * 37 % groups}",
        "neuron": lambda turn: f"seg_neuron/{1 + turn * 41 % (groups - 1)}",
        "pair": lambda turn: f"batch/b{turn * 43 % groups}",
        "type and status": lambda turn: (
            f"type/{SEGMENT_TYPE}/status/{1 + turn * 37 % (groups - 1)}"
        ),
        "confidence below": lambda _: f"confidence/lt/{share:.9f}",
        "confidence above": lambda _: f"confidence/gt/{1 - share * 1.005:.9f}",
        "confidence between": lambda turn: (
            f"confidence/gt/{turn % 90 / 100 + 0.0000001:.9f}"
            f"/confidence/lt/{turn % 90 / 100 + share + 0.0000001:.9f}"
        ),
        "limit": lambda _: f"type/{SEGMENT_TYPE}/limit/{HITS}",
    }


async def _fill(engine: Engine) -> None:
    """Objects 1 to N, whose every field but the type has `HITS` objects a value."""
    stores = await engine.open()
    try:
        channel = (await stores.catalog.token_view("queries")).channels[0]
        for first in range(1, engine.objects + 1, FILLED_AT_ONCE):
            ids = range(first, min(first + FILLED_AT_ONCE, engine.objects + 1))
            await stores.objects.put(channel.id, [_segment(i, engine.objects) for i in ids])
    finally:
        await stores.close()


def _segment(object_id: int, objects: int) -> StoredObject:
    groups = objects // HITS
    group = object_id % groups
    is_segment = group != 0
    fields: dict[str, Any] = {
        "ann_id": object_id,
        "ann_type": SEGMENT_TYPE if is_segment else ORGANELLE_TYPE,
        "ann_status": group,
        "ann_confidence": object_id * 7_919 % objects / objects,
        "ann_author": "bench",
        "batch": f"b{group}",
    }
    if is_segment:
        fields |= {"seg_class": object_id % 4, "seg_neuron": group, "seg_parentseed": 0}
    return StoredObject(object_id, fields)


MEASURES: dict[str, Callable[[Engine, int], Iterator[Result]]] = {
    "posting": posting,
    "scattered": scattered,
    "queries": queries,
}


if __name__ == "__main__":
    raise SystemExit(main())
