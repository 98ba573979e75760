"""Counters of this process, and the sum over all worker processes as Prometheus text.

Each worker writes its numbers to a file of a folder that the supervisor made; whichever worker is
asked adds up the files. A worker that takes the place of a dead one goes on from that one's file,
so that no counter ever goes back.
"""

import json
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

REQUESTS = "ndcass_requests_total"
REQUEST_SECONDS = "ndcass_request_seconds"
RECEIVED = "ndcass_received_bytes_total"
SENT = "ndcass_sent_bytes_total"
CUBOIDS_READ = "ndcass_cuboids_read_total"
CUBOIDS_WRITTEN = "ndcass_cuboids_written_total"
STORE_SECONDS = "ndcass_store_seconds_total"
CODEC_SECONDS = "ndcass_codec_seconds_total"
NETWORK_SECONDS = "ndcass_network_seconds_total"
IN_FLIGHT_BYTES = "ndcass_in_flight_bytes"
IN_FLIGHT_REQUESTS = "ndcass_in_flight_requests"
LOOP_LAG = "ndcass_event_loop_lag_seconds"
JOBS = "ndcass_jobs"
STORE_EVENTS = "ndcass_store_events_total"

# Seconds; one cuboid takes less than a millisecond, a large cutout many seconds.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

Labels = tuple[str, ...]


class Family(NamedTuple):
    """A metric: what it counts and by what."""

    kind: str
    labels: Labels
    help: str


FAMILIES: Mapping[str, Family] = {
    REQUESTS: Family("counter", ("route", "method", "status", "format"), "Answered requests."),
    REQUEST_SECONDS: Family("histogram", ("route",), "From the first header to the last byte."),
    RECEIVED: Family("counter", (), "Bytes of request bodies."),
    SENT: Family("counter", (), "Bytes of answers without their headers."),
    CUBOIDS_READ: Family("counter", (), "Cuboids read from the store."),
    CUBOIDS_WRITTEN: Family("counter", (), "Cuboids handed to the store."),
    STORE_SECONDS: Family("counter", (), "Time that requests waited for the store."),
    CODEC_SECONDS: Family("counter", (), "Time that requests coded and copied voxels."),
    NETWORK_SECONDS: Family("counter", (), "Time that requests waited for their clients."),
    IN_FLIGHT_BYTES: Family("gauge", ("worker",), "Voxels that requests hold at present."),
    IN_FLIGHT_REQUESTS: Family("gauge", ("worker",), "Requests that are being answered."),
    LOOP_LAG: Family("gauge", ("worker",), "How late the event loop woke up, worst of late."),
    STORE_EVENTS: Family("counter", ("event",), "What the store did beyond reading and writing."),
    JOBS: Family("gauge", ("kind", "state"), "Background jobs that the store remembers."),
}


class Metrics:
    """The numbers of one worker; only its event loop touches them.

    Parameters
    ----------
    worker : int
        Which of the workers this is.
    folder : Path, optional
        Where the workers leave their numbers; None if there is only one.
    """

    def __init__(self, worker: int = 0, folder: Path | None = None) -> None:
        self.worker = worker
        self.folder = folder
        self.in_flight_requests = 0
        self.loop_lag_s = 0.0
        self._counters: dict[tuple[str, Labels], float] = {}
        self._events: dict[str, float] = {}
        self._histograms: dict[str, list[float]] = {}

    def add(self, name: str, value: float, labels: Labels = ()) -> None:
        """Add to a counter."""
        if not value:
            return
        key = (name, labels)
        self._counters[key] = self._counters.get(key, 0) + value

    def note_events(self, events: Mapping[str, float]) -> None:
        """Count on from what the store of this process has counted since it was opened."""
        for event, count in events.items():
            self.add(STORE_EVENTS, count - self._events.get(event, 0), (event,))
        self._events = dict(events)

    def observe(self, route: str, seconds: float) -> None:
        """Count a request of a route by how long it took."""
        found = self._histograms.get(route)
        if found is None:
            # One place a bucket, one for what is above all, then the sum of seconds.
            found = self._histograms[route] = [0.0] * (len(BUCKETS) + 2)
        found[bisect_left(BUCKETS, seconds)] += 1
        found[-1] += seconds

    def snapshot(self) -> dict[str, Any]:
        """All of it, as JSON can hold it."""
        return {
            "counters": [
                [name, *labels, value] for (name, labels), value in self._counters.items()
            ],
            "histograms": {route: list(found) for route, found in self._histograms.items()},
        }

    def take_over(self, snapshot: Mapping[str, Any]) -> None:
        """Add what another snapshot counted; `Any` is what `snapshot` holds."""
        for name, *labels, value in snapshot["counters"]:
            self.add(name, value, tuple(labels))
        for route, numbers in snapshot["histograms"].items():
            found = self._histograms.setdefault(route, [0.0] * (len(BUCKETS) + 2))
            for place, number in enumerate(numbers):
                found[place] += number

    def render(self, gauges: Mapping[tuple[str, Labels], float]) -> str:
        """Prometheus' text format, with the gauges of the moment."""
        values = {**self._counters, **gauges}
        lines: list[str] = []
        for name, family in FAMILIES.items():
            lines += [f"# HELP {name} {family.help}", f"# TYPE {name} {family.kind}"]
            if family.kind == "histogram":
                lines += self._histogram_lines(name)
                continue
            for (found, labels), value in sorted(values.items()):
                if found == name:
                    lines.append(f"{name}{_label_text(family.labels, labels)} {_number(value)}")
        return "\n".join(lines) + "\n"

    def _histogram_lines(self, name: str) -> Iterator[str]:
        for route, numbers in sorted(self._histograms.items()):
            total = 0.0
            for limit, count in zip((*map(str, BUCKETS), "+Inf"), numbers, strict=False):
                total += count
                labels = _label_text(("route", "le"), (route, limit))
                yield f"{name}_bucket{labels} {_number(total)}"
            labels = _label_text(("route",), (route,))
            yield f"{name}_sum{labels} {_number(numbers[-1])}"
            yield f"{name}_count{labels} {_number(total)}"


def _label_text(names: Labels, values: Labels) -> str:
    if not names:
        return ""
    pairs = (f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True))
    return "{" + ",".join(pairs) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


# -- several workers


def metrics_file(folder: Path, worker: int) -> Path:
    """Where a worker leaves its numbers."""
    return folder / f"worker-{worker}.json"


def write_snapshot(
    folder: Path, worker: int, snapshot: Mapping[str, Any], gauges: Mapping[str, float]
) -> None:
    """Leave a worker's numbers for the others; blocks on the file."""
    path = metrics_file(folder, worker)
    new = path.with_suffix(".new")
    new.write_text(json.dumps({**snapshot, "gauges": dict(gauges)}))
    new.replace(path)  # a reader sees the old file or the new one


def read_snapshots(folder: Path, *, but: int | None = None) -> Sequence[tuple[int, dict[str, Any]]]:
    """The numbers that the workers left, without one of them; blocks on the files."""
    found = []
    for path in sorted(folder.glob("worker-*.json")):
        worker = int(path.stem.removeprefix("worker-"))
        if worker != but:
            found.append((worker, json.loads(path.read_text())))
    return found
