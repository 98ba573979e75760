"""How a node is started that fetches data before it takes part.

A node that is a seed never fetches: it believes that it is one of the first. So for this one start
it gets settings in which others are the seeds.
"""

import yaml

from ndcass.cluster.layout import SETTINGS, node_settings
from ndcass.cluster.process import files_folder
from ndcass.cluster.site import PRIVATE_FILE, PRIVATE_FOLDER, Site
from ndcass.cluster.spec import Node
from ndcass.errors import ClusterError

JOINING_SETTINGS = f"joining-{SETTINGS}"


def joining_options(site: Site, node: Node) -> tuple[str, ...]:
    """Write the settings for a start in which a node joins; the JVM options that point to them.

    Raises
    ------
    ClusterError
        If there is no other node to ask.
    """
    if not node.is_seed:
        return ()
    others = [other for other in site.cluster.nodes if other != node]
    seeds = [other.address for other in others if other.is_seed] or [
        other.address for other in others
    ]
    if not seeds:
        raise ClusterError(f"node {node.name} is the only one: there is nobody to fetch data from")
    settings = node_settings(site.cluster, node, keystore_password=site.keystore_password)
    [provider] = settings["seed_provider"]
    provider["parameters"] = [{"seeds": ",".join(seeds)}]
    folder = files_folder(node)
    folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    path = folder / JOINING_SETTINGS
    path.unlink(missing_ok=True)
    path.touch(mode=PRIVATE_FILE)
    path.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return (f"-Dcassandra.config={path.as_uri()}",)
