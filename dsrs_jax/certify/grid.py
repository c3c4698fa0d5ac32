"""The search of the paper's published radii: multiples of a unit above Neyman-Pearson's radius."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def last_on_grid(
    start: NDArray[np.float64], precise: NDArray[np.float64], unit: float
) -> NDArray[np.float64]:
    """The last multiple of `unit` that certifies, from the Neyman-Pearson radius `start` upward.

    The maximum of the dual falls with the radius, so that is the last one below the `precise`
    radius.
    """
    multiple = np.floor(precise / unit) * unit
    multiple = np.where(multiple > precise, multiple - unit, multiple)
    return np.minimum(np.maximum(start, multiple), precise)
