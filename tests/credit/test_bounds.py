"""Each link of the chain of bounds, on random and adversarial policies."""

import math

import pytest
import torch

from valuegrad.credit.bounds import bounds, covariance_norm, entropy, entropy_constant
from valuegrad.errors import UserError


def policies():
    """Uniform, near-deterministic, two-point, heavy-tailed, tied and one-token distributions."""
    generator = torch.Generator().manual_seed(0)
    for vocabulary in (1, 2, 3, 4, 5, 50, 1000):
        yield torch.full((vocabulary,), 1 / vocabulary, dtype=torch.float64)
        for scale in (0.1, 1.0, 4.0, 15.0, 60.0):
            for _ in range(12):
                z = torch.randn(vocabulary, generator=generator, dtype=torch.float64)
                yield (scale * z).softmax(0)
        for q in (1e-1, 1e-3, 1e-6, 1e-10, 1e-14):
            near = torch.full((vocabulary,), q / max(vocabulary - 1, 1), dtype=torch.float64)
            near[-1] = 1 - q if vocabulary > 1 else 1.0
            yield near
            if vocabulary > 1:
                two = torch.zeros(vocabulary, dtype=torch.float64)
                two[0], two[1] = 1 - q, q
                yield two
        if vocabulary >= 4:
            for m in (2, 3, 4):
                tied = torch.zeros(vocabulary, dtype=torch.float64)
                tied[:m] = 1 / m
                yield tied
        onehot = torch.zeros(vocabulary, dtype=torch.float64)
        onehot[0] = 1
        yield onehot


def test_every_link_holds_and_the_sharp_bound_is_never_above_the_paper_s():
    count = 0
    for p in policies():
        b, slack = bounds(p), 1 + 1e-12
        assert b.spectral <= b.trace * slack
        assert b.trace <= b.maximum * slack
        assert b.maximum <= b.paper * slack
        assert b.paper <= b.entropy * slack
        assert b.spectral <= b.linear * slack
        assert b.linear <= 0.5
        assert b.linear <= b.paper * slack
        count += 1
    assert count > 400


def test_the_norm_is_the_largest_eigenvalue():
    for p in policies():
        if len(p) > 50:
            continue
        expected = float(torch.linalg.eigvalsh(torch.diag(p) - p[:, None] * p)[-1])
        assert covariance_norm(p).item() == pytest.approx(expected, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("q", [0.3, 1e-5, 1e-12, 1e-30])
def test_two_points_in_closed_form(q):
    p = torch.tensor([1 - q, q, 0.0], dtype=torch.float64)
    b = bounds(p)
    assert b.spectral.item() == pytest.approx(2 * q * (1 - q), rel=1e-12)
    assert b.trace.item() == pytest.approx(2 * q * (1 - q), rel=1e-12)
    h = -q * math.log(q) - (1 - q) * math.log1p(-q)
    assert entropy(p).item() == pytest.approx(h, rel=1e-3)
    assert b.linear.item() == pytest.approx(min(h, 2 * q * (1 - q), 0.5), rel=1e-3)


def test_the_constant_is_the_supremum():
    """C_V by a search over the least-entropy distributions of every p_max."""
    for vocabulary in (2, 3, 4, 10, 300):
        best = 0.0
        for step in range(1, 4000):
            largest = 1 / vocabulary + (1 - 1 / vocabulary) * step / 4000
            full = int(1 / largest + 1e-12)
            rest = max(0.0, 1 - full * largest)
            p = torch.tensor([largest] * full + [rest], dtype=torch.float64)
            h = entropy(p).item()
            best = max(best, (1 - largest) / math.sqrt(h / math.log(vocabulary)))
        uniform = (1 - 1 / vocabulary) * 1.0
        assert entropy_constant(vocabulary) == pytest.approx(max(best, uniform), rel=2e-3)
        assert entropy_constant(vocabulary) >= max(best, uniform) * (1 - 1e-12)
    assert entropy_constant(1) == 0


def test_the_linear_bound_gains_without_limit_as_policies_grow_confident():
    gains = []
    for q in (1e-2, 1e-4, 1e-8):
        b = bounds(torch.tensor([1 - q, q], dtype=torch.float64))
        gains.append(float(b.paper / b.linear))
    assert gains[0] > 3
    assert gains[0] < gains[1] / 3 < gains[2] / 9


def test_distributions_together_equal_one_at_a_time():
    p = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(2)).softmax(-1)
    together = vars(bounds(p))
    for i, j in ((0, 0), (1, 2)):
        for name, alone in vars(bounds(p[i, j])).items():
            assert together[name].shape == (2, 3)
            assert together[name][i, j] == alone


def test_entropy_of_certainty_and_of_a_coin():
    p = torch.tensor([[0.0, 1.0], [0.5, 0.5]])
    assert entropy(p).tolist() == pytest.approx([0.0, math.log(2)])


def test_no_vocabulary():
    with pytest.raises(UserError, match=r"vocabulary.*0.*at least 1"):
        entropy_constant(0)
