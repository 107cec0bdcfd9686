"""Signal × headroom of each prompt, and what keeps the others out."""

import dataclasses

import pytest
import torch
from tests import letters

from valuegrad.finite_groups import group_advantages
from valuegrad.impact import sampled, teacher_forced, vocabulary
from valuegrad.impact.readiness import OUT_OF_REACH, READY, SOLVED, readiness
from valuegrad.sampler import rollouts


def measured(way):
    """Prompts of one-token or longer answers, measured in one of the three ways."""
    if way == "vocabulary":
        prompts = letters.varied("qwen3", 1, None, scale=0.4)
        return vocabulary.measure(letters.policy("qwen3", scale=0.4), prompts)["grpo"]
    policy, prompts = letters.policy("llama"), letters.varied("llama")
    if way == "teacher-forced":
        return teacher_forced.measure(policy, prompts)["grpo"]
    return sampled.measure(policy, rollouts(policy, prompts, 64, seed=0))[0]["grpo"]


@pytest.mark.parametrize("way", ["vocabulary", "teacher-forced", "sampled"])
def test_readiness_is_of_every_token(way):
    """Signal × headroom: Eq. 24 for one token, reward times advantage for more of them."""
    impact = measured(way)
    ready = readiness(impact, one_token=way == "vocabulary")
    p = impact.rows.reward
    slope = group_advantages(torch.tensor([0.0, 1.0]), torch.stack((1 - p, p), 1)).slope
    longer = slope * impact.rows.reward_variance
    expected = impact.rows.alignment if way == "vocabulary" else longer
    tolerance = 0.2 if way == "sampled" else 1e-9
    torch.testing.assert_close(ready.signal, expected, rtol=tolerance, atol=0.02 * tolerance)
    assert torch.equal(ready.readiness, ready.signal * impact.rows.headroom)


def test_verdicts():
    """A group of equal rewards teaches nothing: as likely as not is still ready."""
    policy, prompts = letters.policy("llama"), letters.asked_for_answers("llama")
    (impact,) = teacher_forced.measure(policy, prompts, methods=["grpo"]).values()
    verdicts = {
        (0.5, 0.1): READY,
        (0.5, 0.9): READY,
        (0.0, 0.5): READY,
        (0.51, 0.5): SOLVED,
        (1.0, 1.0): SOLVED,
        (0.51, 0.49): OUT_OF_REACH,
        (1.0, 0.0): OUT_OF_REACH,
    }
    columns = torch.tensor(list(verdicts), dtype=torch.float64)
    blank = impact.rows.map(lambda x: torch.ones(len(columns), dtype=x.dtype))
    rows = dataclasses.replace(blank, zero_spread=columns[:, 0], reward=columns[:, 1])
    found = readiness(dataclasses.replace(impact, rows=rows), one_token=True)
    assert found.verdict.tolist() == list(verdicts.values())
    # Half of the way from −1 to 1.
    signs = dataclasses.replace(impact, middle=0.0)
    rows = dataclasses.replace(blank, zero_spread=columns[:, 0], reward=2 * columns[:, 1] - 1)
    found = readiness(dataclasses.replace(signs, rows=rows), one_token=True)
    assert found.verdict.tolist() == list(verdicts.values())
