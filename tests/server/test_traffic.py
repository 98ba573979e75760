"""Turns of background work, by a clock of the test's own."""

from pathlib import Path

from ndcass.server.traffic import BURST_S, LONGEST_REST_S, SHARE, Traffic, Turns


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_every_worker_sees_the_requests_of_all(tmp_path: Path) -> None:
    Traffic.create(tmp_path, 2)
    first, second = (Traffic.in_folder(tmp_path, worker) for worker in (0, 1))
    first.begin()
    second.begin()
    second.begin()
    assert (first.total, second.total) == (3, 3)


def test_a_worker_alone_counts_its_own(tmp_path: Path) -> None:
    for folder in (None, tmp_path):
        traffic = Traffic.in_folder(folder, 3)
        traffic.begin()
        assert traffic.total == 1


async def work(turns: Turns, clock: Clock, seconds: float) -> None:
    async with turns():
        clock.now_s += seconds


async def test_work_goes_on_without_a_rest_while_nobody_asks() -> None:
    traffic, clock = Traffic.in_folder(None, 0), Clock()
    turns = Turns(traffic, clock)
    for _ in range(20):
        assert turns.rest_s() == 0
        await work(turns, clock, 0.02)


async def test_a_short_piece_is_done_at_once_also_after_a_request() -> None:
    traffic, clock = Traffic.in_folder(None, 0), Clock()
    turns = Turns(traffic, clock)
    traffic.begin()
    await work(turns, clock, BURST_S / 2)
    traffic.begin()
    assert turns.rest_s() == 0


async def test_while_requests_come_work_has_its_share_of_the_time() -> None:
    traffic, clock = Traffic.in_folder(None, 0), Clock()
    turns = Turns(traffic, clock)
    rested = worked = 0.0
    for _ in range(1000):
        traffic.begin()
        rest_s = turns.rest_s()
        assert rest_s <= LONGEST_REST_S
        rested += rest_s
        clock.now_s += rest_s
        traffic.begin()
        worked += 0.002
        await work(turns, clock, 0.002)
    assert 0.8 * SHARE < worked / (rested + worked) < 1.2 * SHARE


async def test_what_was_saved_up_comes_back_with_time() -> None:
    traffic, clock = Traffic.in_folder(None, 0), Clock()
    turns = Turns(traffic, clock)
    traffic.begin()
    await work(turns, clock, 0.1)
    traffic.begin()
    assert turns.rest_s() > 0
    clock.now_s += 10.0
    traffic.begin()
    assert turns.rest_s() == 0
