"""Settings of the probe step and of rollouts: defaults that depend on the answers, and ranges."""

import pytest

from valuegrad.errors import UserError
from valuegrad.impact.settings import Sampling


def test_longer_answers_move_in_more_steps_unless_told():
    assert Sampling().steps(one_token=True) == 1
    assert Sampling().steps(one_token=False) == 4
    assert Sampling(probe_steps=3).steps(one_token=True) == 3
    assert Sampling(probe_steps=3).steps(one_token=False) == 3


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"estimator": "exact"}, "got 'exact'; wanted one of auto, closed-form, sampled"),
        ({"rollouts": 3}, "rollouts: got 3; wanted 4 or more"),
        ({"branch": -1}, "branch: got -1; wanted 0 or more"),
        ({"rollout_seed": -1}, "rollout_seed: got -1"),
        ({"probe_steps": 0}, "probe_steps: got 0; wanted 1 or more"),
        ({"probe_prompts": 0}, "probe_prompts: got 0; wanted 1 or more"),
    ],
)
def test_refuses(unchecked, setting, message):
    with pytest.raises(UserError, match=message):
        Sampling(**setting)
