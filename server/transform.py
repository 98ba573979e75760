"""What happens to voxels between the store and an answer: a filter of labels, a window."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ndcass import picture
from ndcass.errors import InvalidRequest
from ndcass.model import Channel
from ndcass.server.volume_params import VolumeParams, window_bounds

Voxels = npt.NDArray[Any]  # which type is only known at run time


@dataclass(frozen=True, slots=True)
class Transform:
    """What a URL asks for, for the voxels of one channel."""

    window: tuple[float, float] | None
    keep_ids: Voxels | None

    @classmethod
    def of(cls, channel: Channel, params: VolumeParams) -> Self:
        """From the arguments of the URL; InvalidRequest if they do not fit the channel."""
        window = None
        if params.window is not None:
            window = window_bounds(params.window, channel.channel_datatype)
            picture.check_window(*window, dtype=channel.dtype)
        keep = None
        if params.filter_ids is not None:
            if not channel.is_annotation:
                raise InvalidRequest("filter works on annotation channels only")
            most = np.iinfo(channel.dtype).max
            keep = np.array([i for i in params.filter_ids if i <= most], dtype=channel.dtype)
        return cls(window, keep)

    @property
    def is_identity(self) -> bool:
        return self.window is None and self.keep_ids is None

    def dtype(self, stored: np.dtype[Any]) -> np.dtype[Any]:
        """The type of what is sent."""
        return np.dtype(np.uint8) if self.window is not None else stored

    def apply(self, voxels: Voxels) -> Voxels:
        """A new array, or the same where nothing is asked for."""
        if self.keep_ids is not None:
            voxels = np.where(np.isin(voxels, self.keep_ids), voxels, voxels.dtype.type(0))
        if self.window is not None:
            voxels = picture.window(voxels, *self.window)
        return voxels
