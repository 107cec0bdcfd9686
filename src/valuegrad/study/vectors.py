"""Columns of numbers over checkpoints: their shape, and whether anything can be said of them.

n checkpoints · S seeds
"""

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from valuegrad.errors import UserError

MIN_CHECKPOINTS = 4

FloatArray = NDArray[np.float64]


def vector(argument: str, values: FloatArray, length: int | None = None) -> FloatArray:
    """Values in float64, shape (n,); any other shape is refused."""
    array = np.asarray(values, dtype=np.float64)
    fits = array.ndim == 1 and length in (None, len(array))
    wanted = "shape (n,)" if length is None else f"shape ({length},)"
    fix = "pass one number a checkpoint, in the same order throughout"
    require(fits, argument, f"shape {array.shape}", wanted, fix)
    return array


def by_seed(argument: str, values: FloatArray, length: int) -> FloatArray:
    """Values in float64, shape (n, S); shape (n,) is one seed."""
    array = np.asarray(values, dtype=np.float64)
    array = array[:, None] if array.ndim == 1 else array
    fits = array.ndim == 2 and len(array) == length and array.shape[1] > 0
    wanted = f"shape ({length},) or ({length}, seeds)"
    fix = "pass one row a checkpoint, one column a seed"
    require(fits, argument, f"shape {np.shape(values)}", wanted, fix)
    return array


def require(holds: bool, argument: str, got: object, wanted: str, fix: str) -> None:
    """Raise the `UserError` unless the condition holds."""
    if not holds:
        raise UserError(argument, str(got), wanted, fix)


def why_undefined(*arrays: FloatArray) -> str:
    """Why arrays with the checkpoints along the first axis allow no estimate, "" if they do."""
    if any(len(array) < MIN_CHECKPOINTS for array in arrays):
        return f"fewer than {MIN_CHECKPOINTS} checkpoints"
    return "" if all(np.isfinite(array).all() for array in arrays) else "non-finite input"


def is_constant(values: FloatArray) -> bool:
    """Whether there are fewer than two different values."""
    return np.unique(values).size < 2


def centred_ranks(values: FloatArray) -> FloatArray:
    """Twice the mid-ranks minus twice their mean: whole numbers, so sums are exact."""
    return np.asarray(2 * stats.rankdata(values, axis=-1) - (values.shape[-1] + 1))
