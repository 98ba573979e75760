"""The grammar of cutout and slice URLs, with its traps."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndcass.errors import InvalidOption, InvalidRequest
from ndcass.geometry import Box
from ndcass.merge import WriteOp
from ndcass.server.volume_params import (
    parse_plane,
    parse_volume,
    window_bounds,
    write_op,
)

BOX = Box((5, 3, 1), (6, 4, 2))


@pytest.mark.parametrize(
    ("tail", "times"),
    [
        ("0/1,2/3,4/5,6", None),
        ("0/1,2/3,4/5,6/", None),
        ("00/01,2/3,04/5,6/", None),
        ("0" * 30 + "/" + "0" * 5000 + "1,2/3,4/5,6/", None),
        ("0/1,2/3,4/5,6/" + "0" * 5000 + "7,0000000000000000000009/", (7, 9)),
        ("0/1,2/3,4/5,6/7," + "9" * 30, None),
        ("0/1,2/3,4/5,6/7,9/", (7, 9)),
        ("0/1,2/3,4/5,6/7,9", None),
        ("0/1,2/3,4/5,6/7,9neariso/", None),
        ("0/1,2/3,4/5,6/junk/7,9/", None),
        ("0/1,2/3,4/5,6junk", None),
        ("0/1,2/3,4/5,6/0,0/", (0, 0)),
    ],
)
def test_a_time_range_counts_only_behind_the_z_range_and_with_a_slash(
    tail: str, times: tuple[int, int] | None
) -> None:
    params = parse_volume(tail)
    assert (params.level, params.box, params.times) == (0, BOX, times)


@pytest.mark.parametrize(
    "tail",
    [
        "",
        "0",
        "0/1,2/3,4",
        "0/1,2/3,4/5",
        "x/1,2/3,4/5,6/",
        "0/-1,2/3,4/5,6/",
        "0/1;2/3,4/5,6/",
        "0/2,1/3,4/5,6/",
        "0/1,1/3,4/5,6/",
        "0/1,2/3,4/\u0665,6/",
        "0/" + "9" * 10_000_000 + ",2/3,4/5,6/",
        "0/1,2/3,4/5,6/0,9223372036854775807/",
        "0/1,2/3,4/5,6/0,99999999999999999999/",
        "0/1,2/3,4/5,6/99999999999999999999,1/",
        "0/1,2/3,4/5,6/0," + "9" * 10_000_000 + "/",
        "0/" + "0" * 10_000_000 + "x",
        "0/1,2/3,4/5,6/filter/100000000000000000000000/",
        "0/1,2/3,4/5,6/window/a,b/",
        "0/1,2/3,4/5,6/window/1/",
        "0/1,2/3,4/5,6/filter/a/",
        "0/1,2/3,4/5,6/filter//",
    ],
    ids=lambda tail: tail[:40] or "empty",
)
def test_nonsense_is_refused(tail: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_volume(tail)


@pytest.mark.parametrize("end", ["", "/"])
def test_arguments_count_only_between_slashes(end: str) -> None:
    params = parse_volume(f"0/1,2/3,4/5,6/neariso/window/1,2/filter/7,8{end}")
    assert params.neariso
    assert params.window == ("1", "2")
    assert params.filter_ids == ((7, 8) if end else None)


@pytest.mark.parametrize(
    ("plane", "tail", "box"),
    [
        ("xy", "2/1,2/3,5/7/", Box((7, 3, 1), (8, 5, 2))),
        ("xz", "2/1,2/3/5,7/", Box((5, 3, 1), (7, 4, 2))),
        ("yz", "2/1/3,5/7,9/", Box((7, 3, 1), (9, 5, 2))),
    ],
)
def test_a_plane_is_one_voxel_thick(plane: str, tail: str, box: Box) -> None:
    params = parse_plane(plane, tail)
    assert (params.level, params.box, params.times) == (2, box, None)


def test_a_plane_needs_its_slash() -> None:
    with pytest.raises(InvalidRequest, match="slash"):
        parse_plane("xy", "0/1,2/3,5/7")


@pytest.mark.parametrize(
    ("tail", "t"), [("3", 3), ("3/", 3), ("3/window/0,9/", 3), ("direct/", None)]
)
def test_the_timestep_of_a_plane_needs_no_slash(tail: str, t: int | None) -> None:
    times = parse_plane("xy", f"0/1,2/3,5/7/{tail}").times
    assert times == (None if t is None else (t, t + 1))


@pytest.mark.parametrize("t", ["9" * 20, "9" * 10_000_000, "4611686018427387904"], ids=len)
def test_a_timestep_that_is_too_large_is_refused(t: str) -> None:
    with pytest.raises(InvalidRequest, match="beyond"):
        parse_plane("xy", f"0/1,2/3,5/7/{t}/")


def test_zeros_before_the_ids_of_a_filter_do_not_count() -> None:
    zeros = "0" * 5000
    assert parse_volume(f"0/1,2/3,4/5,6/filter/{zeros}7,{zeros}/").filter_ids == (7, 0)


def test_windows_of_integer_channels_have_whole_bounds() -> None:
    assert window_bounds(("1", "200"), "uint8") == (1, 200)
    assert window_bounds(("0.5", "1"), "float32") == (0.5, 1.0)
    with pytest.raises(InvalidRequest, match="whole"):
        window_bounds(("0.5", "1"), "uint8")


def test_the_option_wins_over_a_word_in_the_path() -> None:
    words = frozenset({"preserve"})
    assert write_op("replace", words, annotation=True) is WriteOp.REPLACE
    assert write_op(None, words, annotation=True) is WriteOp.PRESERVE
    assert write_op(None, words, annotation=False) is WriteOp.MERGE
    assert write_op(None, frozenset(), annotation=True) is WriteOp.MERGE
    with pytest.raises(InvalidOption, match="known are"):
        write_op("destroy", words, annotation=True)


@given(tail=st.text(max_size=60))
def test_any_text_is_a_box_or_refused(tail: str) -> None:
    for parse in (parse_volume, lambda text: parse_plane("yz", text)):
        with contextlib.suppress(InvalidRequest):
            parse(tail)
