import itertools
import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndcass.errors import CorruptValue
from ndcass.store.clock import SteadyClock, WriteClock, milliseconds_of, wall_clock_ms


class HandClock:
    """A wall clock that the test sets."""

    def __init__(self, now_ms: int) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms


def test_an_id_is_16_bytes_and_knows_when_it_was_made() -> None:
    write_id = WriteClock(HandClock(1_234_567)).next_id()
    assert len(write_id) == 16
    assert write_id[:8] == (1_234_567).to_bytes(6, "big") + b"\0\0"
    assert milliseconds_of(write_id) == 1_234_567


def test_the_wall_clock_is_the_default() -> None:
    before = wall_clock_ms()
    assert before <= milliseconds_of(WriteClock().next_id()) <= wall_clock_ms()


@given(st.lists(st.integers(0, 1 << 47), min_size=2, max_size=50))
def test_ids_rise_whatever_the_wall_clock_does(times: list[int]) -> None:
    wall = HandClock(0)
    clock = WriteClock(wall)
    ids = []
    for wall.now_ms in times:
        ids += [clock.next_id(), clock.next_id()]
    assert all(a < b for a, b in itertools.pairwise(ids))


def test_a_clock_that_jumps_ahead_is_followed() -> None:
    wall = HandClock(10)
    clock = WriteClock(wall)
    clock.next_id()
    wall.now_ms = 500
    assert milliseconds_of(clock.next_id()) == 500


def test_a_full_counter_moves_to_the_next_millisecond() -> None:
    clock = WriteClock(HandClock(10))
    ids = [clock.next_id() for _ in range((1 << 16) + 1)]
    assert milliseconds_of(ids[-2]) == 10
    assert milliseconds_of(ids[-1]) == 11
    assert len(set(ids)) == len(ids)


def test_two_clocks_make_no_id_twice() -> None:
    wall = HandClock(10)
    assert WriteClock(wall).next_id() != WriteClock(wall).next_id()


def test_an_observed_id_is_overtaken() -> None:
    wall = HandClock(1000)
    other = WriteClock(HandClock(1050)).next_id()
    clock = WriteClock(wall)
    assert clock.observe(other, max_ahead_ms=50)
    assert clock.next_id() > other


def test_an_observed_id_of_the_past_changes_nothing() -> None:
    clock = WriteClock(HandClock(1000))
    last = clock.next_id()
    assert clock.observe(WriteClock(HandClock(1)).next_id(), max_ahead_ms=0)
    assert clock.next_id() > last


def test_an_id_too_far_ahead_is_not_adopted() -> None:
    clock = WriteClock(HandClock(1000))
    assert not clock.observe(WriteClock(HandClock(1051)).next_id(), max_ahead_ms=50)
    assert milliseconds_of(clock.next_id()) == 1000


@pytest.mark.parametrize("size", [0, 15, 17])
def test_an_id_of_another_length_is_damage(size: int) -> None:
    with pytest.raises(CorruptValue, match="16 bytes"):
        milliseconds_of(b"x" * size)
    with pytest.raises(CorruptValue, match="16 bytes"):
        WriteClock().observe(b"x" * size, max_ahead_ms=0)


def test_threads_get_ids_that_differ() -> None:
    clock = WriteClock(HandClock(10))
    ids: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: ids.extend(clock.next_id() for _ in range(2000)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert len(set(ids)) == 8000


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")  # the child only writes
def test_a_forked_child_makes_other_ids() -> None:
    clock = WriteClock(HandClock(10))
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write_end, clock.next_id())
        finally:
            os._exit(0)  # whatever happens, the child must not go on with the tests
    os.close(write_end)
    from_child = os.read(read_end, 16)
    os.close(read_end)
    _, status = os.waitpid(child, 0)
    assert status == 0
    mine = clock.next_id()
    assert mine[:8] == from_child[:8]
    assert mine[8:] != from_child[8:]


@given(
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(-100_000, 100_000)), max_size=20),
)
def test_a_steady_clock_goes_no_further_than_time_has_passed(steps: list[tuple[int, int]]) -> None:
    wall = HandClock(1_000_000)
    passed_ms = 0
    steady = SteadyClock(wall, lambda: passed_ms / 1000)
    for pause_ms, set_by_ms in steps:
        passed_ms += pause_ms
        wall.now_ms += pause_ms + set_by_ms
        assert steady() <= min(wall.now_ms, 1_000_000 + passed_ms)
        assert steady() >= min(wall.now_ms, 1_000_000 + passed_ms) - 1


def test_a_steady_clock_follows_a_wall_clock_that_was_checked() -> None:
    wall = HandClock(1_000)
    steady = SteadyClock(wall, lambda: 0.0)
    wall.now_ms = 9_000
    assert steady() == 1_000
    steady.checked()
    assert steady() == 9_000
