"""Strata of prompts: codes, collapsed strata, and the error of stratified means."""

import numpy as np
import pytest
from scipy import stats

from valuegrad.tasks.arithmetic import arithmetic
from valuegrad.tasks.label_copy import TEMPLATES, label_copy
from valuegrad.tasks.strata import mean_covariance, strata_codes


def test_label_copy_names_the_cell_of_each_prompt():
    task = label_copy(prompts=64, train_prompts=64)
    for split in (task.evaluation, task.train):
        counts = {
            name: sum(e.stratum == name for e in split) for name in {e.stratum for e in split}
        }
        assert counts == {f"{i}:{label}": 4 for i in range(len(TEMPLATES)) for label in "ABCD"}
        assert all(e.stratum.endswith(f":{e.answer}") for e in split)
    assert {e.stratum for e in arithmetic(prompts=4, train_prompts=4).evaluation} == {""}


def test_strata_are_no_part_of_what_is_measured():
    task = label_copy(prompts=16, train_prompts=16)
    plain = label_copy(prompts=16, train_prompts=16)
    for e in plain.evaluation:
        object.__setattr__(e, "stratum", "")
    assert plain.sha256 == task.sha256


@pytest.mark.parametrize(
    ("names", "codes"),
    [
        (None, [0] * 5),
        ([""] * 5, [0] * 5),
        (["b", "a", "b", "a", "a"], [1, 0, 1, 0, 0]),
        (["a", "b", "c", "d", "e"], [0] * 5),
        (["a", "a", "b", "c", "c"], [1, 1, 1, 0, 0]),
        (["a"] * 3 + ["b", "c"], [0, 0, 0, 1, 1]),
    ],
)
def test_every_stratum_has_two_prompts_or_more(names, codes):
    found = strata_codes(names, 5)
    assert np.bincount(found).min() > 1
    assert found.tolist() == codes


def test_one_prompt_says_nothing_of_its_error():
    assert np.isnan(mean_covariance(np.ones((2, 1)), strata_codes([""], 1))).all()


def test_the_covariance_is_what_resampling_by_stratum_comes_to():
    rng = np.random.default_rng(0)
    codes = np.repeat([0, 1, 2], [3, 5, 8])
    rows = rng.normal(size=(2, 16)) + 3 * codes
    draws = 20000
    means = np.zeros((draws, 2))
    for h, size in enumerate((3, 5, 8)):
        inside = rows[:, codes == h]
        chosen = inside[:, rng.integers(0, size, (draws, size))].sum(2).T
        # A bootstrap takes the spread of a stratum as its population's: N_h − 1 of N_h.
        centre = inside.sum(1)
        means += (centre + (chosen - centre) * np.sqrt(size / (size - 1))) / 16
    found = mean_covariance(rows, codes)
    for a, b in ((0, 0), (1, 1), (0, 1)):
        products = np.prod((means - rows.mean(1))[:, [a, b]], axis=1)
        z = (products.mean() - found[a, b]) / (products.std() / np.sqrt(draws))
        assert abs(z) < stats.norm.isf(5e-4)


def test_the_standard_error_covers_the_mean_of_a_stratified_sample():
    rng = np.random.default_rng(1)
    trials, cells = 2000, rng.normal(0, 5, 16)
    codes = np.repeat(np.arange(16), 4)
    rows = cells[codes] + rng.normal(size=(trials, 64))
    z = [
        (row.mean() - cells.mean()) / np.sqrt(mean_covariance(row[None], codes).item())
        for row in rows
    ]
    covered = int(np.sum(np.abs(z) < stats.t.isf(0.025, 48)))
    assert stats.binomtest(covered, trials, 0.95).pvalue > 1e-3
    plain = rows.std(1, ddof=1) / 8
    # Taken for independent draws they seem less sure by what the cells differ.
    wide = np.median(plain) / rows.mean(1).std()
    assert wide == pytest.approx(np.sqrt(1 + cells.var()), rel=0.05)
