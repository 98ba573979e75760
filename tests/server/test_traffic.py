"""Turns of background work, by a clock of the test's own."""

from pathlib import Path

import pytest

from ndcass.server.traffic import BURST_S, LONGEST_REST_S, SHARE, Traffic, Turns


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Machine:
    """A worker, what it is asked, and work behind it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.traffic = Traffic.alone(self.clock)
        self.turns = Turns(self.traffic, self.clock)

    def answer(self, seconds: float) -> None:
        self.traffic.begin()
        self.clock.now_s += seconds
        self.traffic.end()

    async def work(self, seconds: float, *, asked: bool) -> None:
        """A piece, while requests are answered or not."""
        async with self.turns():
            if asked:
                self.answer(seconds)
            else:
                self.clock.now_s += seconds


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_every_worker_sees_the_requests_of_all(tmp_path: Path) -> None:
    Traffic.create(tmp_path, 2)
    clock = Clock()
    first, second = (Traffic.in_folder(tmp_path, worker) for worker in (0, 1))
    for traffic in (first, second):
        traffic._now_s = clock
    first.begin()
    second.begin()
    clock.now_s += 2.0
    first.end()
    clock.now_s += 1.0
    assert first.busy_s == second.busy_s == pytest.approx(5.0)


def test_the_requests_of_a_worker_that_died_are_forgotten(tmp_path: Path) -> None:
    Traffic.create(tmp_path, 1)
    Traffic.in_folder(tmp_path, 0).begin()
    assert Traffic.in_folder(tmp_path, 0).busy_s == 0


def test_a_worker_alone_counts_its_own(tmp_path: Path) -> None:
    for folder in (None, tmp_path):
        traffic = Traffic.in_folder(folder, 3)
        traffic.begin()
        assert 0 <= traffic.busy_s < 10


async def test_work_goes_on_without_a_rest_while_nobody_asks(machine: Machine) -> None:
    for _ in range(20):
        assert machine.turns.rest_s() == 0
        await machine.work(0.02, asked=False)


async def test_a_short_piece_is_done_at_once_also_after_a_request(machine: Machine) -> None:
    machine.answer(0.5)
    await machine.work(BURST_S / 2, asked=True)
    assert machine.turns.rest_s() == 0


async def test_somebody_who_asks_now_and_then_holds_nothing_up(machine: Machine) -> None:
    for _ in range(100):
        machine.answer(0.001)
        await machine.work(0.05, asked=False)
        assert machine.turns.rest_s() == 0


async def test_while_requests_come_work_has_its_share_of_the_time(machine: Machine) -> None:
    rested = worked = 0.0
    for _ in range(1000):
        rest_s = machine.turns.rest_s()
        assert rest_s <= LONGEST_REST_S
        rested += rest_s
        if rest_s:
            machine.answer(rest_s)
        worked += 0.002
        await machine.work(0.002, asked=True)
    assert 0.8 * SHARE < worked / (rested + worked) < 1.2 * SHARE


async def test_what_was_saved_up_comes_back_with_time(machine: Machine) -> None:
    machine.answer(1.0)
    await machine.work(0.1, asked=True)
    assert machine.turns.rest_s() > 0
    machine.answer(10.0)
    assert machine.turns.rest_s() == 0
