"""The paper's z-scores over checkpoints, and its combination of two of them (Section 6)."""

import numpy as np

from valuegrad.study.vectors import FloatArray, is_constant, vector


def z_scores(values: FloatArray) -> FloatArray:
    """(x − mean) / std over checkpoints, population std; all NaN if constant or not all finite."""
    x = vector("values", values)
    if not np.isfinite(x).all() or is_constant(x):
        return np.full(x.shape, np.nan)
    return np.asarray((x - x.mean()) / x.std())


def z_combination(reward_before: FloatArray, predictor: FloatArray) -> FloatArray:
    """The paper's z(R_before) + z(P), which it holds against the reward after RL."""
    r = vector("reward_before", reward_before)
    return z_scores(r) + z_scores(vector("predictor", predictor, len(r)))
