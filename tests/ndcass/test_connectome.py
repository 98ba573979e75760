import pytest

from ndcass import ramon
from ndcass.connectome import partners
from ndcass.ramon import ObjectType


@pytest.mark.parametrize(
    ("values", "edges"),
    [
        ({"syn_segments": [7, 3]}, [(3, 7)]),
        ({"syn_segments": [7]}, []),
        ({"syn_segments": [7, 7]}, []),
        ({"syn_segments": [1, 3, 2]}, [(1, 2), (1, 3), (2, 3)]),
        ({"syn_presegments": [5], "syn_postsegments": [2, 9]}, [(2, 5), (5, 9)]),
        ({}, []),
    ],
)
def test_a_synapse_joins_its_segments(
    values: dict[str, object], edges: list[tuple[int, int]]
) -> None:
    synapse = ramon.make_object(1, ObjectType.SYNAPSE, values)
    assert list(partners(synapse)) == edges
