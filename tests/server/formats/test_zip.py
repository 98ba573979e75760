import zlib

from hypothesis import given
from hypothesis import strategies as st

from ndcass.server.formats.zip import ZipEncoder
from tests.server.formats.bodies import Array, arrays, encoded


@given(arrays(), st.integers(1, 50))
def test_zlib_reads_the_voxels_back(array: Array, step: int) -> None:
    assert zlib.decompress(encoded(ZipEncoder(), array, step=step)) == array.tobytes()
