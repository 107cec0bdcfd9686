"""Columns over checkpoints as runs make them: independent, autocorrelated, random walks."""

import numpy as np

KINDS = ("independent", "AR(0.8)", "random walk")
BURN_IN = 100


def series(kind, shape, rng):
    """Columns with standard normal shocks, the checkpoints along the last axis."""
    if kind == "independent":
        return rng.standard_normal(shape)
    if kind == "random walk":
        return np.cumsum(rng.standard_normal(shape), axis=-1)
    shocks = rng.standard_normal((*shape[:-1], shape[-1] + BURN_IN))
    values = np.zeros_like(shocks)
    for t in range(1, shocks.shape[-1]):
        values[..., t] = 0.8 * values[..., t - 1] + 0.6 * shocks[..., t]
    return values[..., BURN_IN:]
