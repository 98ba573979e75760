"""Graphs of segments as files of many tools."""

import io
from collections.abc import Callable, Sequence
from typing import Any

from ndcass.errors import Malformed

DEFAULT = "graphml"
# What networkx once wrote and no longer does, or what runs code when it is read.
REFUSED = frozenset({"gpickle", "yaml"})


def encode_graph(edges: Sequence[tuple[int, int]], kind: str) -> bytes:
    """An undirected graph, its nodes named as their ids are.

    Parameters
    ----------
    edges : sequence of (int, int)
    kind : str
        In lower case: adjlist, edgelist, gexf, gml or pajek; everything else means GraphML.

    Raises
    ------
    Malformed
        If it is one of those that are not offered.
    """
    # Here, since it takes a third of a second that no other request should wait for.
    import networkx  # type: ignore[import-untyped]  # it has no types

    if kind in REFUSED:
        raise Malformed(f"{kind} is not offered: graphml, adjlist, edgelist, gexf, gml, pajek are")

    def write_adjlist(graph: Any, out: io.BytesIO) -> None:  # of networkx, as all graphs here
        # networkx's own writer begins with the command line of this process.
        lines = ("# segments joined by synapses", *networkx.generate_adjlist(graph))
        out.write("".join(f"{line}\n" for line in lines).encode())

    writers: dict[str, Callable[[Any, io.BytesIO], None]] = {
        "adjlist": write_adjlist,
        "edgelist": networkx.write_edgelist,
        "gexf": networkx.write_gexf,
        "gml": networkx.write_gml,
        "pajek": networkx.write_pajek,
    }
    graph = networkx.Graph()
    graph.add_edges_from((str(a), str(b)) for a, b in edges)
    out = io.BytesIO()
    writers.get(kind, networkx.write_graphml)(graph, out)
    return out.getvalue()
