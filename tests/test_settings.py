"""Settings: what they refuse from Python, and what they take."""

import math
from dataclasses import asdict, replace

import pytest

from valuegrad.budget import Budget
from valuegrad.errors import UserError
from valuegrad.impact.settings import Sampling
from valuegrad.study.config import StudyConfig
from valuegrad.tasks.settings import TaskSettings


@pytest.mark.parametrize(
    ("owner", "value", "message"),
    [
        (Budget, {"seeds": True}, "^seeds: got True; wanted a whole number.*the default is 3$"),
        (Budget, {"seeds": 16.9}, "seeds: got 16.9; wanted a whole number"),
        (Budget, {"seeds": 3.0}, "seeds: got 3.0; wanted a whole number"),
        (Budget, {"seeds": "3"}, "seeds: got '3'; wanted a whole number"),
        (Budget, {"learning_rate": "3"}, "learning_rate: got '3'; wanted a number"),
        (Budget, {"learning_rate": True}, "learning_rate: got True; wanted a number"),
        (Budget, {"updates": "10"}, "updates: got '10'; wanted a list in brackets"),
        (Budget, {"updates": (1, True)}, "updates: got True; wanted a whole number"),
        (Budget, {"sed": 1}, "sed: got an unknown key; .* did you mean 'seed'"),
        (Budget, {"self": 1}, "self: got an unknown key"),
        (Sampling, {"probe_steps": 0}, "probe_steps: got 0; wanted 1 or more. Fix: raise it"),
        (Sampling, {"rollouts": 3}, "rollouts: got 3; wanted 4 or more"),
        (Sampling, {"estimator": "sampld"}, "estimator: .*did you mean 'sampled'"),
        (TaskSettings, {"prompts": 0}, "prompts: got 0; wanted 1 or more"),
        (TaskSettings, {"labels": "AB"}, "labels: got 'AB'; wanted a list in brackets"),
        (TaskSettings, {"name": 3}, "name: got 3; wanted a text"),
        (StudyConfig, {"checkpoints": ()}, "checkpoints: got an empty list; wanted at least one"),
        (StudyConfig, {}, "checkpoints: got nothing; wanted a value"),
        (StudyConfig, {"checkpoints": ("a",), "site": True}, "site: got True"),
        (StudyConfig, {"checkpoints": ("a",), "budget": {"seeds": 0}}, "^budget.seeds: got 0"),
        (StudyConfig, {"checkpoints": ("a",), "budget": {"updates": [2, 1]}}, "^budget.updates:"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_wanted(unchecked, owner, value, message):
    with pytest.raises(UserError, match=message) as caught:
        owner(**value)
    assert "Input should" not in str(caught.value)


def test_a_value_given_by_its_place_is_named_too(unchecked):
    with pytest.raises(UserError, match="rollouts: got 'many'"):
        Sampling("sampled", "many")


def test_a_whole_number_is_a_number_and_a_list_a_tuple():
    budget = Budget(learning_rate=1, updates=[5, 10])
    assert (budget.learning_rate, type(budget.learning_rate)) == (1.0, float)
    assert budget.updates == (5, 10)
    assert replace(budget, seeds=5) == Budget(learning_rate=1.0, updates=(5, 10), seeds=5)
    with pytest.raises(UserError, match="seeds: got 0"):
        replace(budget, seeds=0)


def test_settings_are_values():
    assert hash(Budget()) == hash(Budget())
    assert asdict(Budget())["updates"] == (10, 20, 25, 30)
    with pytest.raises(AttributeError):
        Budget().seeds = 4
    assert math.isclose(Budget(updates=(5, 10)).mean_updates, 7.5)
