"""Measures pictures of the running service in milliseconds: drawn, and drawn before.

Part of ``python -m bench.end_to_end``. Every picture is asked for twice: first nobody has drawn it,
then it comes from the cache. The voxels are in the page cache.
"""

import statistics
from collections.abc import Iterator, Sequence
from functools import partial

from bench.clients import Client
from bench.end_to_end import TOKEN, Result, cutout_path, prepared_server, timed

CHANNEL = "em"
SLICES = 320
# Pictures that warm up the worker, and are not counted.
FIRST = 40

CASES = {
    "512x512 xy slice": f"/nd/sd/{TOKEN}/{CHANNEL}/xy/0/0,512/0,512/{{}}/",
    "512x512 xy tile": f"/nd/catmaid/{TOKEN}/{CHANNEL}/xy/{{}}/0_0_0.png",
    "512x512 xz tile": f"/nd/catmaid/{TOKEN}/{CHANNEL}/xz/{{}}/0_0_0.png",
}


def pictures(rounds: int) -> Iterator[Result]:
    """Slices and tiles, by one client."""
    del rounds  # each picture is drawn once
    with prepared_server(workers=1) as server:
        client = Client(server)
        client.drain(cutout_path((SLICES, 512, 512)))
        for name, path in CASES.items():
            paths = [path.format(number) for number in range(SLICES)]
            drawn = _times_ms(client, paths)[FIRST:]
            kept = _times_ms(client, paths)[FIRST:]
            yield _line(f"{name}, drawn, p50 ms", drawn, 50, least=8.0, aim=3.0)
            yield _line(f"{name}, drawn, p99 ms", drawn, 99, least=25.0, aim=10.0)
            yield _line(f"{name}, from the cache, p50 ms", kept, 50, least=2.0, aim=1.0)


def _times_ms(client: Client, paths: Sequence[str]) -> list[float]:
    return [1e3 * timed(partial(client.drain, path)) for path in paths]


def _line(
    name: str, times_ms: Sequence[float], percent: int, *, least: float, aim: float
) -> Result:
    cuts = statistics.quantiles(times_ms, n=100)
    return Result(
        name,
        cuts[percent - 1],
        least,
        aim,
        smaller_is_better=True,
        detail={"p10_ms": cuts[9], "p50_ms": cuts[49], "p90_ms": cuts[89], "p99_ms": cuts[98]},
    )
