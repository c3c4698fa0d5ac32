"""What every dataset looks like to the rest of the package."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int32


@dataclass(frozen=True, eq=False)
class Dataset:
    """One split of a labelled image set, held in memory.

    `images` are float32 (N, H, W, C) in [0, 1], the space in which noise is added and radii are
    measured; `labels` are int32 (N,) in [0, classes). The order is the original one and never
    changes: an index names an image in every record that is written about it.
    """

    name: str
    split: str
    images: Float32[np.ndarray, "images height width channels"]
    labels: Int32[np.ndarray, "images"]
    classes: int

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of one image."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Float32[np.ndarray, "height width channels"], int]:
        """The image (H, W, C) and the label at `index`; IndexError beyond the end."""
        return self.images[index], int(self.labels[index])
