"""What is stored of some cuboids as one short digest: equal digests mean equal voxels."""

import struct
from collections.abc import Iterable
from hashlib import blake2b

from ndcass.store.base import VERSIONS_BYTES, CuboidAddress

_ADDRESS = struct.Struct("<QBBqQI")


def versions_digest(found: Iterable[tuple[CuboidAddress, bytes]]) -> bytes:
    """The digest of some cuboids, each with what names its present content, in any order.

    Cuboids that are not there do not come: nothing else can stand for them.
    """
    digest = blake2b(digest_size=VERSIONS_BYTES)
    for address, version in sorted(found):
        # With the length, so that no two lists run into the same bytes.
        digest.update(_ADDRESS.pack(*address, len(version)))
        digest.update(version)
    return digest.digest()
