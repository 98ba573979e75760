import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from ndcass.server.metrics import (
    BUCKETS,
    IN_FLIGHT_BYTES,
    RECEIVED,
    REQUESTS,
    Metrics,
    metrics_file,
    read_snapshots,
    write_snapshot,
)


def test_counters_add_up_by_their_labels() -> None:
    metrics = Metrics()
    for status in ("200", "404", "200"):
        metrics.add(REQUESTS, 1, ("/x", "GET", status, "npz"))
    text = metrics.render({})
    assert 'requests_total{route="/x",method="GET",status="200",format="npz"} 2\n' in text
    assert 'requests_total{route="/x",method="GET",status="404",format="npz"} 1\n' in text


def test_labels_are_escaped() -> None:
    metrics = Metrics()
    metrics.add(REQUESTS, 1, ('a"b\\c\nd', "GET", "200", ""))
    assert 'route="a\\"b\\\\c\\nd"' in metrics.render({})


def test_buckets_are_cumulative() -> None:
    metrics = Metrics()
    for seconds in (0.0005, 0.001, 0.003, 100.0):
        metrics.observe("/x", seconds)
    lines = [line for line in metrics.render({}).splitlines() if "_bucket" in line]
    counts = [int(line.split()[-1]) for line in lines]
    assert len(lines) == len(BUCKETS) + 1
    assert counts[:3] == [2, 2, 3]
    assert counts[-2:] == [3, 4]
    assert 'ndcass_request_seconds_count{route="/x"} 4' in metrics.render({})


def test_gauges_are_those_of_the_moment() -> None:
    text = Metrics().render({(IN_FLIGHT_BYTES, ("3",)): 5.0})
    assert '\nndcass_in_flight_bytes{worker="3"} 5\n' in text


@given(st.lists(st.floats(0, 1e6, allow_nan=False), max_size=20), st.integers(0, 20))
def test_sum_of_workers_is_what_one_worker_would_have_counted(
    values: list[float], cut: int
) -> None:
    one, first, second = Metrics(), Metrics(), Metrics()
    for place, value in enumerate(values):
        for metrics in (one, first if place < cut else second):
            metrics.add(RECEIVED, round(value))
            metrics.observe("/x", round(value))
    total = Metrics()
    for part in (first, second):
        total.take_over(json.loads(json.dumps(part.snapshot())))
    assert total.render({}) == one.render({})


def test_workers_find_the_numbers_of_the_others(tmp_path: Path) -> None:
    for worker in range(3):
        metrics = Metrics(worker)
        metrics.add(RECEIVED, 10**worker)
        write_snapshot(tmp_path, worker, metrics.snapshot(), {IN_FLIGHT_BYTES: worker})
    found = read_snapshots(tmp_path, but=1)
    assert [worker for worker, _ in found] == [0, 2]
    assert found[1][1]["gauges"] == {IN_FLIGHT_BYTES: 2}
    total = Metrics()
    for _, snapshot in found:
        total.take_over(snapshot)
    assert "\nndcass_received_bytes_total 101\n" in total.render({})


def test_half_written_file_is_never_seen(tmp_path: Path) -> None:
    write_snapshot(tmp_path, 0, Metrics().snapshot(), {})
    assert [path.name for path in tmp_path.iterdir()] == [metrics_file(tmp_path, 0).name]


def test_events_of_the_store_are_counted_on_and_never_go_back() -> None:
    metrics = Metrics()
    metrics.note_events({"retries": 2})
    metrics.note_events({"retries": 5, "hedges": 1})
    after = Metrics()  # a worker that takes the place of another, with a store of its own
    after.take_over(metrics.snapshot())
    after.note_events({"retries": 1})
    text = after.render({})
    assert 'ndcass_store_events_total{event="retries"} 6' in text
    assert 'ndcass_store_events_total{event="hedges"} 1' in text
