"""What every engine shares: the order of prompts, and the result of a run."""

import itertools

import pytest
import torch

from valuegrad.budget import Budget
from valuegrad.errors import NotFiniteError, RunError
from valuegrad.training.run import Training, diverging, prompt_order


@pytest.mark.parametrize(("count", "size"), [(7, 3), (6, 6), (4, 9), (5, 1)])
def test_every_prompt_comes_once_before_any_comes_again(count, size):
    batches = list(
        itertools.islice(prompt_order(count, size, torch.Generator().manual_seed(1)), 20)
    )
    assert all(len(batch) == size for batch in batches)
    order = list(itertools.chain(*batches))
    rounds = [order[start : start + count] for start in range(0, len(order) - count + 1, count)]
    assert all(sorted(r) == list(range(count)) for r in rounds)
    # A new order in every round, and the same ones from the same seed.
    assert len({tuple(r) for r in rounds}) > 1
    again = itertools.islice(prompt_order(count, size, torch.Generator().manual_seed(1)), 20)
    assert list(again) == batches
    other = itertools.islice(prompt_order(count, size, torch.Generator().manual_seed(2)), 20)
    assert list(other) != batches


def test_gains_are_what_a_run_added():
    run = Training(0, Budget(), 0.25, (0.5, 0.125), 0.0, "trl")
    assert run.gains == (0.25, -0.125)


def test_a_run_that_left_the_numbers_says_what_to_change():
    told = pytest.raises(RunError, match=r"at learning rate 0\.5; lower `learning_rate` and run ag")
    with told, diverging(Budget(learning_rate=0.5)):
        raise NotFiniteError("here")
