"""Budgets: the values that name no run."""

import math

import pytest

from valuegrad.budget import Budget
from valuegrad.errors import UserError


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"updates": ()}, r"updates: got \[\]; wanted increasing whole numbers"),
        ({"updates": (5, 5)}, r"updates: got \[5, 5\]"),
        ({"updates": (0, 5)}, r"updates: got 0; wanted 1 or more"),
        ({"group_size": 1}, r"group_size: got 1; wanted 2 or more"),
        ({"inner_epochs": 0}, r"inner_epochs: got 0; wanted 1 or more"),
        ({"seed": -1}, r"seed: got -1; wanted 0 or more"),
        ({"learning_rate": math.nan}, r"learning_rate: got nan; wanted a finite number"),
        ({"learning_rate": math.inf}, r"learning_rate: got inf; wanted a finite number"),
        ({"clip": 0.0}, r"clip: got 0.0; wanted a number above 0"),
        ({"beta": -1.0}, r"beta: got -1.0; wanted 0 or more"),
        ({"kl": "k2"}, r"kl: got 'k2'; wanted one of exact, k3"),
        ({"method": "trpo"}, r"method: got 'trpo'; wanted one of grpo"),
    ],
)
def test_budgets_refuse(unchecked, setting, message):
    with pytest.raises(UserError, match=message):
        Budget(**setting)
