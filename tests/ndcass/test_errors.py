import inspect

import pytest

from ndcass import errors
from ndcass.errors import NdcassError, TooLarge

CLASSES = [
    found
    for _, found in inspect.getmembers(errors, inspect.isclass)
    if found.__module__ == errors.__name__
]


def test_every_error_belongs_to_the_tree_and_is_drawn_in_it() -> None:
    drawing = errors.__doc__ or ""
    for found in CLASSES:
        assert issubclass(found, NdcassError)
        assert found.__name__ in drawing.split(), found.__name__


def test_the_drawing_shows_who_is_whose_child() -> None:
    """A class stands deeper than its base, below it, with no shallower one between."""
    lines = [
        (line.index(name), name)
        for line in (errors.__doc__ or "").splitlines()
        for name in [next((word for word in line.split() if hasattr(errors, word)), "")]
        if name
    ]
    names = [name for _, name in lines]
    assert len(names) == len(set(names)) == len(CLASSES)
    for place, (depth, name) in enumerate(lines[1:], start=1):
        parent = next(n for d, n in reversed(lines[:place]) if d < depth)
        assert getattr(errors, name).__bases__ == (getattr(errors, parent),)


def test_every_error_says_what_it_means() -> None:
    for found in CLASSES:
        assert found.__doc__, found.__name__
        assert found.__doc__ != Exception.__doc__


@pytest.mark.parametrize("unit", ["bytes", "voxels"])
def test_too_large_says_what_is_allowed(unit: str) -> None:
    error = TooLarge("body", asked=12, limit=10, unit=unit)
    assert str(error) == f"body: 12 {unit} asked for, at most 10 {unit} are allowed"
    assert (error.asked, error.limit) == (12, 10)
