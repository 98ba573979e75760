import argparse

import pytest

from ndcass.cli import arguments
from ndcass.cli.arguments import Target
from ndcass.geometry import Box


def test_target_is_token_and_channel() -> None:
    assert arguments.target("demo/em") == Target("demo", "em")


@pytest.mark.parametrize("text", ["demo", "demo/", "/em", "a/b/c", "de-mo/em", "demo/em?x", ""])
def test_other_targets_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not TOKEN/CHANNEL"):
        arguments.target(text)


def test_box_is_read_as_x_y_z_and_kept_as_z_y_x() -> None:
    assert arguments.box("0,10/20,40/3,6") == Box((3, 20, 0), (6, 40, 10))


@pytest.mark.parametrize(
    "text",
    [
        "0,10/20,40",
        "0,10/20,40/6,3",
        "0,10/20,20/3,6",
        "a,b/0,1/0,1",
        "-1,5/0,1/0,1",
        "٣,٤/0,1/0,1",
    ],
)
def test_other_boxes_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        arguments.box(text)


def test_corner_is_read_as_x_y_z_and_kept_as_z_y_x() -> None:
    assert arguments.corner("1,2,3") == (3, 2, 1)


def test_span_must_not_be_empty() -> None:
    assert arguments.span("2,5") == (2, 5)
    with pytest.raises(argparse.ArgumentTypeError, match="empty or inverted"):
        arguments.span("5,5")


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "many", ""])
def test_number_below_the_least_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="whole number from 1 on"):
        arguments.at_least(1)(text)
