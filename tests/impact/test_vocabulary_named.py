"""A named reward that several tokens earn: every spelling of a number is in G."""

import dataclasses

import pytest
import torch
import transformers
from tests import letters, oracles
from tests.impact.test_vocabulary import approx, sizes
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from valuegrad.credit.value_gradient import value_gradient
from valuegrad.impact.vocabulary import measure
from valuegrad.prompts import tokenise
from valuegrad.rewards.example import Example
from valuegrad.rewards.named import reward_named
from valuegrad.tasks.task import Task

TEXTS = ("<|end|>", "5", " 5", "7", "x=", "y=")


@pytest.fixture(scope="module")
def numbers():
    """A policy over six tokens, of which "5" and " 5" are the same number."""
    tokenizer = Tokenizer(models.WordLevel({t: i for i, t in enumerate(TEXTS)}, "<|end|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?\d|[a-z]="), "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")
    return dataclasses.replace(letters.policy("llama"), tokenizer=fast)


@pytest.mark.parametrize("site", [0, "final"])
def test_several_tokens_may_earn_one_from_a_named_reward(numbers, site):
    """`number` with completions of one token: G = Σ_a p_a r_a s_a, both spellings of 5 in it."""
    pairs = (("x=", "5"), ("y=", " 5"), ("x=7y=", "7"))
    examples = tuple(Example(prompt, answer) for prompt, answer in pairs)
    chosen = Task("numbers", examples, examples, reward_named("number"), max_tokens=1)
    prompts = tokenise(numbers, chosen).evaluation
    assert prompts.kind == "one token"
    model, ids = numbers.model, [list(tokens) for tokens in prompts.tokens]
    ps = [oracles.distribution(model, q) for q in ids]
    rs = [torch.tensor([0, 1, 1, 0, 0, 0.0]).double()] * 2
    rs += [torch.tensor([0, 0, 0, 1, 0, 0.0]).double()]
    scores = [oracles.scores(model, q, [site])[site] for q in ids]
    G = value_gradient(numbers, prompts, site)
    for row, (p, r, s) in enumerate(zip(ps, rs, scores, strict=True)):
        torch.testing.assert_close(G[row], (p * r) @ s, rtol=1e-9, atol=1e-14)
    for method, impact in measure(numbers, chosen, site=site, **sizes("exact")).items():
        expected = oracles.measurements(ps, rs, scores, method, **sizes("exact"))
        assert vars(impact.means) == approx(expected)
        # The answer's token alone is another gradient.
        alone = [p[a] * s[a] for p, s, (a,) in zip(ps, scores, ((1,), (2,), (3,)), strict=True)]
        indicator = sum(float(g @ g) for g in alone) / 3
        assert impact.means.sigma != pytest.approx(indicator, rel=0.05)
