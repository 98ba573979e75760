import asyncio
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndcass.store.cassandra.lanes import Lanes

LIMIT = 100


@dataclass(eq=False)
class Host:
    name: str
    is_up: bool | None = True


async def settle() -> None:
    """Let every task that can go on do so."""
    for _ in range(5):
        await asyncio.sleep(0)


@dataclass(eq=False)
class Traffic:
    """Requests in lanes, each leaving when it is told to."""

    lanes: Lanes = field(default_factory=lambda: Lanes(LIMIT))
    inside: dict[int, tuple[Host, int]] = field(default_factory=dict)
    tasks: dict[int, "asyncio.Task[Any]"] = field(default_factory=dict)
    wanted: dict[int, tuple[list[Host], int]] = field(default_factory=dict)

    def enter(self, number: int, hosts: list[Host], size: int) -> None:
        async def ask() -> None:
            self.inside[number] = (await self.lanes.enter(hosts, size), size)

        self.wanted[number] = (hosts, size)
        self.tasks[number] = asyncio.create_task(ask())

    def leave(self, number: int) -> None:
        self.lanes.leave(*self.inside.pop(number))

    @property
    def waiting(self) -> list[int]:
        return [number for number, task in self.tasks.items() if not task.done()]

    def check(self) -> None:
        used: defaultdict[Host, list[int]] = defaultdict(list)
        for host, size in self.inside.values():
            used[host].append(size)
        assert {host: sum(sizes) for host, sizes in used.items()} == dict(self.lanes.used_bytes)
        for sizes in used.values():
            assert sum(sizes) <= LIMIT or len(sizes) == 1, "only one above the limit may go, alone"
        for number in self.waiting[:1]:
            hosts, size = self.wanted[number]
            assert all(used[host] and sum(used[host]) + size > LIMIT for host in hosts), (
                "who is first waits only where there is no room"
            )


steps = st.lists(
    st.tuples(
        st.sampled_from(["enter", "enter", "leave", "cancel", "cancel and leave"]),
        st.sets(st.integers(0, 2), min_size=1).map(sorted),
        st.sampled_from([1, 10, 40, 60, 100, 250]),
        st.integers(0, 1 << 20),
    ),
    max_size=40,
)


@given(steps)
def test_lanes_are_never_overfull_and_nobody_waits_for_ever(
    steps: list[tuple[str, list[int], int, int]],
) -> None:
    async def run() -> None:
        hosts = [Host(name) for name in "abc"]
        traffic = Traffic()
        for number, (kind, places, size, which) in enumerate(steps):
            if kind == "enter":
                traffic.enter(number, [hosts[place] for place in places], size)
            if "cancel" in kind and traffic.waiting:
                traffic.tasks[traffic.waiting[which % len(traffic.waiting)]].cancel()
            if "leave" in kind and traffic.inside:  # before one that was cancelled has run
                traffic.leave(list(traffic.inside)[which % len(traffic.inside)])
            await settle()
            traffic.check()
        while traffic.inside:
            traffic.leave(next(iter(traffic.inside)))
            await settle()
            traffic.check()
        assert traffic.waiting == []
        assert not traffic.lanes.used_bytes

    asyncio.run(run())


async def test_a_large_request_is_not_kept_out_by_small_ones() -> None:
    host = Host("a")
    traffic = Traffic()
    traffic.enter(0, [host], 1)
    await settle()
    traffic.enter(1, [host], LIMIT)
    await settle()
    for number in range(2, 10):  # each would fit beside the first
        traffic.enter(number, [host], 1)
        await settle()
    assert list(traffic.inside) == [0]
    traffic.leave(0)
    await settle()
    assert list(traffic.inside) == [1]
    traffic.leave(1)
    await settle()
    assert list(traffic.inside) == list(range(2, 10))


async def test_who_waits_for_one_host_keeps_nobody_from_another() -> None:
    a, b = Host("a"), Host("b")
    traffic = Traffic()
    traffic.enter(0, [a], LIMIT)
    traffic.enter(1, [a], LIMIT)
    traffic.enter(2, [a, b], 10)
    await settle()
    assert traffic.inside == {0: (a, LIMIT), 2: (b, 10)}
    traffic.leave(0)
    await settle()
    traffic.check()
    assert 1 in traffic.inside


async def test_a_turn_that_comes_as_its_asker_is_cancelled_goes_to_the_next() -> None:
    host = Host("a")
    traffic = Traffic()
    for number in range(3):
        traffic.enter(number, [host], LIMIT)
    await settle()
    traffic.leave(0)  # now it is the turn of 1, which has not run yet
    traffic.tasks[1].cancel()
    await settle()
    assert list(traffic.inside) == [2]
    traffic.check()


async def test_a_host_that_is_away_has_no_room_unless_all_are() -> None:
    a, b = Host("a", is_up=False), Host("b", is_up=None)
    lanes = Lanes(LIMIT)
    assert await lanes.enter([a, b], 10) is b
    b.is_up = False
    assert await asyncio.wait_for(lanes.enter([a, b], 10 * LIMIT), timeout=10) is a
    assert await asyncio.wait_for(lanes.enter([a, b], 10 * LIMIT), timeout=10) is a


@pytest.mark.parametrize("is_up", [True, None])
def test_the_best_host_is_up_and_has_the_least_in_flight(is_up: bool | None) -> None:
    away, busy, idle = Host("away", is_up=False), Host("busy", is_up), Host("idle", is_up)
    lanes = Lanes(LIMIT)
    lanes.force(busy, 5)
    assert lanes.sorted([away, busy, idle]) == [idle, busy, away]
