"""What the name of a revision or folder says."""

import pytest

from valuegrad.checkpoints.checkpoint import parse_revision


@pytest.mark.parametrize(
    ("name", "stage", "step", "tokens"),
    [
        ("stage1-step50000-tokens105B", 1, 50_000, 105 * 10**9),
        ("stage2-ingredient1-step1000-tokens5B", 2, 1000, 5 * 10**9),
        ("stage1-step0", 1, 0, None),
        ("step1000", None, 1000, None),
        ("step-240000", None, 240_000, None),
        ("stage3-step-4720000", 3, 4_720_000, None),
        ("ckpt_000", None, 0, None),
        ("step50000-tokens210B", None, 50_000, 210 * 10**9),
        ("step7-tokens1.5T", None, 7, 1_500_000_000_000),
        ("checkpoint-150", None, 150, None),
        ("main", None, None, None),
        ("footstep12", None, None, None),
    ],
)
def test_a_name_says_stage_step_and_tokens(name, stage, step, tokens):
    read = parse_revision(name)
    assert (read.stage, read.step, read.tokens) == (stage, step, tokens)
