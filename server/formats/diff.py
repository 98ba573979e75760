"""Format ``diff``: each sample minus the next one (data plane 3.8). Sent only, as ``blosc`` is."""

from typing import Any

import numpy as np
import numpy.typing as npt

Voxels = npt.NDArray[Any]  # which type is only known at run time

DTYPE = np.dtype("<f4")
# Integers of up to this many bytes, and their differences, are exact in single precision.
EXACT_BYTES = 2


def differences(voxels: Voxels) -> npt.NDArray[np.float32]:
    """Sample minus next sample along the first axis, which gets one shorter.

    Parameters
    ----------
    voxels : ndarray, shape (t, z, y, x) or (z, y, x)
        Of any number type.
    """
    out = np.empty((len(voxels) - 1, *voxels.shape[1:]), dtype=DTYPE)
    wide = voxels.dtype
    if wide.kind != "f":
        wide = DTYPE if wide.itemsize <= EXACT_BYTES else np.dtype("<f8")
    # Sample by sample: the wider numbers of all of them would take twice the memory.
    for index, difference in enumerate(out):
        a, b = (voxels[i].astype(wide, copy=False) for i in (index, index + 1))
        with np.errstate(over="ignore", invalid="ignore"):  # infinity minus infinity is NaN
            difference[...] = a - b
    return out
