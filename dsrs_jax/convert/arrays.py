"""The NumPy array that a caller's images or labels are: an array of any library, or a tensor."""

from __future__ import annotations

import sys
from typing import Any

import jax.numpy as jnp
import numpy as np

from dsrs_jax.system.errors import UserError, first_line


def array_of(values: Any, name: str) -> np.ndarray:
    """The numbers as NumPy has them; of a PyTorch tensor wherever it is, with its history or not.

    Args:
        values: an array, a tensor, or a sequence of these or of numbers. It stays as it is.
        name: of it, for messages.

    Raises:
        UserError: NumPy cannot hold it: it is sparse or has no data, or its rows differ in length.
    """
    torch: Any = sys.modules.get("torch")  # whoever has a tensor has imported it
    tensor = () if torch is None else torch.Tensor
    if isinstance(values, (list, tuple)) and any(isinstance(value, tensor) for value in values):
        values = [array_of(value, name) for value in values]
    try:
        if isinstance(values, tensor):
            # NumPy has no bfloat16; float32 holds it exactly.
            values = values.float() if values.dtype == torch.bfloat16 else values
            values = values.numpy(force=True)
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"the {name} are no plain array of numbers ({type(error).__name__}: "
            f"{first_line(error)})"
        ) from error
    return array.astype(np.float32) if array.dtype == jnp.bfloat16 else array
