"""Texts of variable length in an HDF5 file, found without the HDF5 library.

The library walks the heap that holds them as its sizes say, and in a damaged file it walks for
ever, with its lock in hand. Here every step is checked against the size of the file.

Notes
-----
Source: HDF5 File Format Specification 3.0, III.E (global heap) and IV.A.2.d (variable length).
"""

import struct

from ndcass.errors import Malformed

_ADDRESS_BYTES = 8
# In a dataset: length, address of the collection, number in it.
_REFERENCE = struct.Struct("<IQI")
REFERENCE_BYTES = _REFERENCE.size
# Of a collection: signature, version, reserved, size with this header.
_COLLECTION = struct.Struct("<4sB3xQ")
_SIGNATURE, _VERSION = b"GCOL", 1
# Of an object: its number, how often it is used, reserved, size without padding.
_OBJECT = struct.Struct("<HH4xQ")
_ALIGNED = 8


def check_addresses(sizes: tuple[int, int], userblock: int) -> None:
    """Malformed if addresses of a file are other than nearly all files have them."""
    if sizes != (_ADDRESS_BYTES, _ADDRESS_BYTES) or userblock:
        raise Malformed("the HDF5 file has a user block, or addresses that are not of 8 bytes")


def text_at(file: bytes | bytearray | memoryview, reference: bytes | memoryview) -> bytes:
    """The bytes of a text.

    Parameters
    ----------
    file : bytes-like
        The whole file.
    reference : bytes-like
        What the dataset holds, `REFERENCE_BYTES` long.

    Raises
    ------
    Malformed
        If there is no such text in the file.
    """
    length, address, wanted = _REFERENCE.unpack(reference)
    if not length:
        return b""
    try:
        signature, version, size = _COLLECTION.unpack_from(file, address)
        end = address + size
        if (signature, version) != (_SIGNATURE, _VERSION) or end > len(file):
            raise Malformed("a text is not where the HDF5 file says")
        at = address + _COLLECTION.size
        while at + _OBJECT.size <= end:
            number, _, held = _OBJECT.unpack_from(file, at)
            at += _OBJECT.size
            if number == 0:  # the free space behind the last object
                break
            if number == wanted and length <= held and at + length <= end:
                # Some writers count the zero at the end of a text.
                return bytes(memoryview(file)[at : at + length]).partition(b"\0")[0]
            at += held + -held % _ALIGNED
    except struct.error as error:
        raise Malformed("a text is beyond the end of the HDF5 file") from error
    raise Malformed("a text is not where the HDF5 file says")
