"""Measures the running service as ratios against something simpler in the same run.

``python -m bench.end_to_end --output build/bench.json`` starts a gateway on the embedded engine in
a temporary folder, measures, prints a table and writes it as JSON. A ratio is the median over
rounds; in a round both sides run right after each other, because machines are shared and their
speed changes from one second to the next.
"""

import argparse
import asyncio
import json
import math
import os
import platform
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil

from bench.clients import Client, Server, http_server, raw_sender, serve_ndcass

MIB = 1 << 20
BOX_BYTES = 64 * MIB
# z, y, x of the 64 MiB box, and of the dataset it lies in: 1 GiB, and room for unaligned boxes.
BOX = (256, 512, 512)
DATASET = (1040, 1152, 1152)
CUBOID = (16, 128, 128)
TOKEN = "bench"


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the table: a ratio with what it is asked to be, and the absolute figures."""

    name: str
    value: float
    least: float | None
    aim: float | None
    smaller_is_better: bool
    detail: dict[str, float]

    @property
    def holds(self) -> bool:
        """Whether the least that is asked for is met; true where nothing is asked."""
        if self.least is None:
            return True
        return self.value <= self.least if self.smaller_is_better else self.value >= self.least


def main() -> int:
    """Measure and report; exit code 0 whether or not a line holds, for this is no test."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("build/bench.json"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", action="append", help="part of a name; may be repeated")
    options = parser.parse_args()
    wanted = [
        name for name in MEASURES if not options.only or any(part in name for part in options.only)
    ]
    report(wanted, options.rounds, options.output, MEASURES)
    return 0


def report(
    names: Sequence[str],
    rounds: int,
    output: Path,
    measures: Mapping[str, Callable[[int], Iterator[Result]]],
) -> None:
    """Measure by name, print lines and a table, and write all of it as JSON."""
    results: list[Result] = []
    for name in names:
        for result in measures[name](rounds):
            results.append(result)
            print(line(result), flush=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    document = {"machine": machine(), "results": [{**asdict(r), "holds": r.holds} for r in results]}
    output.write_text(json.dumps(document, indent=2) + "\n")
    print(f"\n{table(results)}")


def machine() -> dict[str, Any]:
    """What the figures were measured on, as JSON can hold it."""
    return {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
    }


def table(results: Sequence[Result]) -> str:
    """The results as a Markdown table."""
    lines = ["| what | measured | at least | aim |", "| --- | --- | --- | --- |"]
    for r in results:
        least, aim = (("-" if v is None else f"{v:g}") for v in (r.least, r.aim))
        lines.append(f"| {r.name} | {r.value:.2f} | {least} | {aim} |")
    return "\n".join(lines)


def line(result: Result) -> str:
    """A result for a person who watches."""
    mark = "ok  " if result.holds else "LESS"
    detail = ", ".join(f"{k} {v:.3g}" for k, v in result.detail.items())
    return f"{mark} {result.name}: {result.value:.2f}  ({detail})"


# -- in process


def in_process(rounds: int) -> Iterator[Result]:
    """The warm box through the library, against numpy putting the cuboids together from RAM."""
    # Imports the library only where it is measured.
    from bench.embedded import OTHER_LEVELS, read_other_level, read_warm_box

    library_s, numpy_s = asyncio.run(read_warm_box(rounds * 3))
    yield Result(
        "warm 64 MiB box in process / numpy assembly",
        statistics.median(b / a for a, b in zip(library_s, numpy_s, strict=True)),
        0.7,
        0.9,
        smaller_is_better=False,
        detail={
            "library_gib_s": BOX_BYTES / 2**30 / statistics.median(library_s),
            "numpy_gib_s": BOX_BYTES / 2**30 / statistics.median(numpy_s),
        },
    )
    names = {
        0: "box one level finer than is stored / numpy repeat",
        2: "one coarser / numpy stride",
    }
    for level, name in names.items():
        library_s, numpy_s = asyncio.run(read_other_level(level, rounds * 3))
        mib = math.prod(OTHER_LEVELS[level]) / MIB
        yield Result(
            name,
            statistics.median(b / a for a, b in zip(library_s, numpy_s, strict=True)),
            None,
            None,
            smaller_is_better=False,
            detail={
                "library_mib_s": mib / statistics.median(library_s),
                "numpy_mib_s": mib / statistics.median(numpy_s),
            },
        )


# -- over REST


def reads(rounds: int) -> Iterator[Result]:
    """Boxes, cuboids and planes over REST."""
    with ExitStack() as stack:
        server = stack.enter_context(prepared_server(workers=2))
        sender = stack.enter_context(raw_sender(BOX_BYTES))
        ours, theirs = Client(server), Client(sender)
        buffer = bytearray(BOX_BYTES)
        aligned = cutout_path(BOX)
        ratios, box_s, raw_s = compare(
            lambda: ours.get(aligned, buffer), lambda: theirs.get("/", buffer), rounds * 3
        )
        yield Result(
            "64 MiB box over REST raw / raw socket",
            statistics.median(1 / r for r in ratios),
            0.45,
            0.7,
            smaller_is_better=False,
            detail={"rest_gib_s": 1 / 16 / box_s, "socket_gib_s": 1 / 16 / raw_s},
        )
        unaligned = cutout_path(BOX, corner=(5, 37, 61))
        ratios, un_s, al_s = compare(
            lambda: ours.get(unaligned, buffer), lambda: ours.get(aligned, buffer), rounds * 3
        )
        yield Result(
            "unaligned / aligned box over REST, per byte",
            statistics.median(1 / r for r in ratios),
            0.85,
            1.0,
            smaller_is_better=False,
            detail={"unaligned_gib_s": 1 / 16 / un_s, "aligned_gib_s": 1 / 16 / al_s},
        )
        yield from many_clients(server, rounds)
        yield from latencies(server, stack)


def many_clients(server: Server, rounds: int) -> Iterator[Result]:
    """Random 4 MiB boxes, eight clients against one."""

    def boxes(clients: int) -> float:
        """Bytes a second of so many clients together."""
        count = 64 // clients

        def prepared(seed: int) -> Callable[[], None]:
            client = Client(server)
            buffer = bytearray(4 * MIB)
            buffer[:] = bytes(4 * MIB)  # its pages are there
            rng = np.random.default_rng(seed)

            def work() -> None:
                for _ in range(count):
                    z, y, x = (int(rng.integers(0, n)) for n in (192, 256, 256))
                    client.get(cutout_path((64, 256, 256), corner=(z, y, x)), buffer)

            return work

        return 64 * 4 * MIB / together(prepared, clients)

    boxes(8)
    pairs = [(boxes(8), boxes(1)) for _ in range(rounds)]
    yield Result(
        "random 4 MiB boxes, 8 clients / 1 client",
        statistics.median(a / b for a, b in pairs),
        1.1,
        1.5,
        smaller_is_better=False,
        detail={"eight_mib_s": pairs[-1][0] / MIB, "one_mib_s": pairs[-1][1] / MIB},
    )


def latencies(server: Server, stack: ExitStack) -> Iterator[Result]:
    """One cuboid and one plane, against an aiohttp handler that sends as many bytes from RAM."""
    plain = Client(stack.enter_context(http_server(256 << 10)))
    quiet = Client(stack.enter_context(http_server(256 << 10, quiet=True)))
    ours = Client(server)
    buffer = bytearray(256 << 10)
    cases = (
        ("one-cuboid GET, p50 / aiohttp from RAM", CUBOID, (16, 128, 128), 1.6, 1.2),
        ("512x512 plane, p50 / aiohttp from RAM", (1, 512, 512), (7, 0, 0), 2.5, 1.5),
    )
    for name, shape, corner, least, aim in cases:
        path = cutout_path(shape, corner=corner)
        calls = (
            partial(ours.get, path, buffer),
            partial(plain.get, "/", buffer),
            partial(quiet.get, "/", buffer),
        )
        turns: list[list[float]] = []  # short ones, so that all meet the same seconds
        every: list[float] = []
        for _ in range(30):
            times = [[timed(call) for _ in range(50)] for call in calls]
            every += times[0]
            turns.append([statistics.median(some) for some in times])
        yield Result(
            name,
            statistics.median(mine / theirs for mine, theirs, _ in turns),
            least,
            aim,
            smaller_is_better=True,
            detail={
                "p50_ms": 1e3 * statistics.median(every),
                "p99_ms": 1e3 * statistics.quantiles(every, n=100)[-1],
                "plain_p50_ms": 1e3 * statistics.median(theirs for _, theirs, _ in turns),
                "ratio_without_access_log": statistics.median(m / q for m, _, q in turns),
            },
        )


def writes(rounds: int) -> Iterator[Result]:
    """Durable POSTs of 64 MiB, against a file; four at once; small unaligned ones."""
    with prepared_server(workers=2, fill=False) as server, tempfile.TemporaryDirectory() as folder:
        touch_memory(rounds * 15 * BOX_BYTES)
        body = random_voxels(BOX)
        client = Client(server)
        turn = iter(range(10_000))

        def post(client: Client, t: int) -> None:
            client.post(cutout_path(BOX, t=t), body.data)

        def write_file(number: int) -> None:
            # A new file each time, none deleted before the end: the gateway's pages are fresh too.
            path = Path(folder) / f"{number}"
            with path.open("wb", buffering=0) as file:
                for at in range(0, BOX_BYTES, 4 * MIB):
                    file.write(flat[at : at + 4 * MIB])
                os.fsync(file.fileno())

        flat = body.reshape(-1).data
        ratios, post_s, file_s = compare(
            lambda: post(client, next(turn)), lambda: write_file(next(turn)), rounds, warm_up=2
        )
        yield Result(
            "durable POST raw of 64 MiB / file and fsync",
            statistics.median(1 / r for r in ratios),
            0.5,
            1.0,
            smaller_is_better=False,
            detail={"post_mib_s": 64 / post_s, "file_mib_s": 64 / file_s},
        )

        def four() -> float:
            starts = [next(turn) for _ in range(4)]
            return together(lambda n: partial(post, Client(server), starts[n]), 4) / 4

        def four_files() -> float:
            paths = [next(turn) for _ in range(4)]
            return together(lambda n: partial(write_file, paths[n]), 4) / 4

        rows = [
            (
                four(),
                timed(lambda: post(client, next(turn))),
                four_files(),
                timed(lambda: write_file(next(turn))),
            )
            for _ in range(rounds)
        ]
        four_s, one_s, four_files_s, one_file_s = zip(*rows, strict=True)
        yield Result(
            "four POSTs of 64 MiB at once / one",
            statistics.median(one / four_each for four_each, one, _, _ in rows),
            1.0,
            1.3,
            smaller_is_better=False,
            detail={
                "four_mib_s": 64 / statistics.median(four_s),
                "one_mib_s": 64 / statistics.median(one_s),
                # What the disk makes of four at once, whoever writes.
                "four_files_mib_s": 64 / statistics.median(four_files_s),
                "one_file_mib_s": 64 / statistics.median(one_file_s),
            },
        )
        yield from small_writes(server, rounds)


def small_writes(server: Server, rounds: int) -> Iterator[Result]:
    """Unaligned 100x100x10 boxes a second, by one client and by four."""
    voxels = random_voxels((10, 100, 100)).data

    def write(clients: int) -> float:
        """Writes a second of so many clients together."""
        count = 160 // clients

        def prepared(seed: int) -> Callable[[], None]:
            client = Client(server)
            rng = np.random.default_rng(seed)

            def work() -> None:
                for _ in range(count):
                    z, y, x = (int(rng.integers(0, n)) for n in (1000, 1000, 1000))
                    client.post(cutout_path((10, 100, 100), corner=(z, y, x), t=20_000), voxels)

            return work

        return 160 / together(prepared, clients)

    write(4)
    pairs = [(write(4), write(1)) for _ in range(rounds)]
    yield Result(
        "unaligned 100x100x10 writes a second, 4 clients / 1 client",
        statistics.median(a / b for a, b in pairs),
        1.0,
        None,
        smaller_is_better=False,
        detail={
            "one_client_s": statistics.median(b for _, b in pairs),
            "four_clients_s": statistics.median(a for a, _ in pairs),
        },
    )


def memory(rounds: int) -> Iterator[Result]:
    """How much a worker's own memory grows while it serves and takes 1 GiB."""
    del rounds  # memory does not vary from one run to the next
    shape = (1024, 1024, 1024)
    with prepared_server(workers=1, fill=False) as server:
        client = Client(server)
        chunk = random_voxels((16, 1024, 1024)).reshape(-1).data
        with anonymous_growth(server) as taken:
            client.post_repeated(cutout_path(shape, t=1), chunk, 64)
        yield Result(
            "growth of a worker while it takes a 1 GiB POST / the body",
            taken[0] / 2**30,
            1.2,
            1.0,
            smaller_is_better=True,
            detail={"mib": taken[0] / MIB},
        )
        with anonymous_growth(server) as served:
            client.drain(cutout_path(shape, t=1))
        yield Result(
            "growth of a worker while it serves a 1 GiB box, MiB",
            served[0] / MIB,
            128,
            64,
            smaller_is_better=True,
            detail={"mib": served[0] / MIB},
        )


def drawn_pictures(rounds: int) -> Iterator[Result]:
    """Slices and tiles, see ``bench/pictures.py``."""
    from bench.pictures import pictures  # which imports this module

    yield from pictures(rounds)


MEASURES: dict[str, Callable[[int], Iterator[Result]]] = {
    "in-process": in_process,
    "reads": reads,
    "writes": writes,
    "memory": memory,
    "pictures": drawn_pictures,
}


# -- parts


@contextmanager
def prepared_server(*, workers: int, fill: bool = True) -> Iterator[Server]:
    """A gateway with an empty dataset, filled with noise at timestep 0 on demand."""
    with serve_ndcass(workers=workers) as server:
        client = Client(server)
        prepare(client)
        if fill:
            layer = random_voxels((64, 640, 640)).data
            for z in range(0, 320, 64):
                client.post(cutout_path((64, 640, 640), corner=(z, 0, 0)), layer)
        yield server


def prepare(client: Client, *, token: str = TOKEN) -> None:
    """An empty dataset with project, channel and token of one name."""
    dataset = {
        "dataset_name": token,
        **{f"{a}imagesize": n for a, n in zip("zyx", DATASET, strict=True)},
        "zvoxelres": 10.0,
        "public": 1,
    }
    client.create(f"/nd/resource/dataset/{token}/", dataset)
    project = f"/nd/resource/dataset/{token}/project/{token}/"
    client.create(project, {"project_name": token, "public": 1})
    channel = {
        "channel_name": "em",
        "channel_type": "timeseries",
        "channel_datatype": "uint8",
    }
    client.create(f"{project}channel/em/", channel)
    client.create(f"{project}token/{token}/", {"token_name": token, "public": 1})


def cutout_path(
    shape_zyx: tuple[int, int, int],
    *,
    corner: tuple[int, int, int] = (0, 0, 0),
    t: int = 0,
    token: str = TOKEN,
) -> str:
    """The URL of a raw cutout of timestep `t`."""
    ranges = [
        f"{start},{start + size}"
        for start, size in zip(reversed(corner), reversed(shape_zyx), strict=True)
    ]
    return f"/nd/sd/{token}/em/raw/0/{'/'.join(ranges)}/{t},{t + 1}/"


def random_voxels(shape_zyx: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    """Noise, which does not compress, with zeros in it, as images have them."""
    return np.random.default_rng(7).integers(0, 256, shape_zyx, dtype=np.uint8)


def timed(call: Callable[[], Any]) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def compare(
    one: Callable[[], Any], other: Callable[[], Any], rounds: int, *, warm_up: int = 3
) -> tuple[list[float], float, float]:
    """Ratios of the times of two calls that take turns, and the median time of each."""
    for _ in range(warm_up):
        one()
        other()
    pairs = [(timed(one), timed(other)) for _ in range(rounds)]
    return (
        [a / b for a, b in pairs],
        statistics.median(a for a, _ in pairs),
        statistics.median(b for _, b in pairs),
    )


def together(prepared: Callable[[int], Callable[[], None]], count: int) -> float:
    """Seconds that as many processes as clients take for their work, once all are ready for it.

    Each calls `prepared` with its number first (connections, buffers), which is not measured.
    """
    pids = []
    ready, go = os.pipe(), os.pipe()
    for number in range(count):
        pid = os.fork()
        if pid == 0:
            try:
                work = prepared(number)
                os.close(go[1])
                os.write(ready[1], b".")
                os.close(ready[1])  # or nobody would notice that another one failed
                os.read(go[0], 1)  # ends when the last writing end is closed
                work()
                os._exit(0)
            finally:
                os._exit(1)
        pids.append(pid)
    os.close(ready[1])
    waiting = sum(len(os.read(ready[0], 1)) for _ in range(count))
    began = time.perf_counter()
    os.close(go[1])
    failed = [pid for pid in pids if os.waitpid(pid, 0)[1] != 0]
    seconds = time.perf_counter() - began
    os.close(ready[0])
    os.close(go[0])
    if failed or waiting < count:
        raise RuntimeError(f"{max(len(failed), 1)} of {count} clients failed")
    return seconds


def touch_memory(size: int) -> None:
    """Have the system's free memory be memory that the machine has: as a file, then let go of.

    A virtual machine gets its pages from its host when they are touched for the first time, and
    again when they lay idle for long. That goes at a few hundred MiB/s, for a file as for a
    gateway, and whoever writes fresh pages measures it instead of what writes them.
    """
    size = min(size, psutil.virtual_memory().available // 2)
    piece = bytes(4 * MIB)
    with tempfile.TemporaryFile() as file:
        for _ in range(0, size, len(piece)):
            file.write(piece)


@contextmanager
def anonymous_growth(server: Server) -> Iterator[list[int]]:
    """The most that the anonymous memory of a worker grows within the block, in bytes."""
    workers = server.worker_pids()
    before = {pid: _anonymous_bytes(pid) for pid in workers}
    most = [0]
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.01):
            for pid, start in before.items():
                most[0] = max(most[0], _anonymous_bytes(pid) - start)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield most
    finally:
        stop.set()
        watcher.join()


def _anonymous_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) << 10
    raise RuntimeError("the kernel does not say how much memory is anonymous")


if __name__ == "__main__":
    sys.exit(main())
