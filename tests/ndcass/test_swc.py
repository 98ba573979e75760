import pytest

from ndcass.errors import InvalidRequest, Malformed, NdcassError
from ndcass.skeletons import objects_of
from ndcass.swc import parse_swc, swc_text


def test_a_file_is_read_with_parents_first_whatever_their_order() -> None:
    swc = parse_swc("# made by hand\n\n3 2 1 2 3.5 1 1\n1 1 0 0 0 2 -1\n2 3 1 1 1 0.5 3\n")
    assert [node.number for node in swc.nodes] == [1, 3, 2]
    assert swc.comments == ["# made by hand\n"]
    assert swc_text(["# x"], swc.nodes) == (
        "# x\n1 1 0.0 0.0 0.0 2.0 -1\n3 2 1.0 2.0 3.5 1.0 1\n2 3 1.0 1.0 1.0 0.5 3\n"
    )


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", InvalidRequest),
        ("# nothing\n", InvalidRequest),
        ("1 1 0 0 0 1\n", Malformed),
        ("1 1 0 0 x 1 -1\n", Malformed),
        ("1.5 1 0 0 0 1 -1\n", Malformed),
        ("1 1 0 0 0 1 -1\n1 1 0 0 0 1 -1\n", InvalidRequest),
        ("1 1 0 0 0 1 2\n", InvalidRequest),
        ("1 1 0 0 0 1 2\n2 1 0 0 0 1 1\n", InvalidRequest),
    ],
)
def test_what_is_no_tree_is_refused(text: str, error: type[NdcassError]) -> None:
    with pytest.raises(error):
        parse_swc(text)


def test_each_root_is_a_skeleton_whose_id_comes_before_its_own() -> None:
    swc = parse_swc("# c\n1 1 0 0 0 1 -1\n2 1 0 0 0 1 1\n5 1 0 0 0 1 -1\n")
    made = objects_of(swc, 10)
    assert [(item.id, item.type.name) for item in made] == [
        (10, "SKELETON"), (11, "NODE"), (12, "NODE"), (13, "SKELETON"), (14, "NODE"),
    ]  # fmt: skip
    assert [made[0].fields["skel_rootnode"], made[3].fields["skel_rootnode"]] == [11, 14]
    assert [made[i].fields["node_parent"] for i in (1, 2, 4)] == [-1, 11, -1]
    assert made[0].pairs == made[3].pairs == {"0": ("# c\n",)}
