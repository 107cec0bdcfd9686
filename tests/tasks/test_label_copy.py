"""Label copy: blocks that hold every template with every label, and what is refused."""

import itertools

import pytest

from valuegrad.errors import UserError
from valuegrad.tasks.label_copy import label_copy


def test_label_copy_is_deterministic_varied_and_split():
    task, again = label_copy(), label_copy()
    assert task == again
    assert task.sha256 == again.sha256 != label_copy(seed=1).sha256
    train, held = ({e.prompt for e in split} for split in (task.train, task.evaluation))
    assert len(held) == 256
    assert len(train) == 1024
    assert not train & held
    for example in task.evaluation:
        assert f"'{example.answer}'" in example.prompt
    counts = [sum(e.answer == label for e in task.evaluation) for label in "ABCD"]
    assert sum(counts) == 256
    assert min(counts) > 256 / 8


def test_any_block_of_label_copy_holds_every_template_with_every_label():
    task = label_copy(prompts=40, train_prompts=40)
    for split in (task.train, task.evaluation):
        for block in (split[:16], split[16:32]):
            cells = {(_template(e.prompt), e.answer) for e in block}
            assert cells == set(itertools.product(range(4), "ABCD"))
    assert len(label_copy(prompts=1, train_prompts=600).evaluation) == 1


def _template(prompt):
    marks = ("': '", "assert ", "self.", " = '")
    return next(i for i, mark in enumerate(marks) if mark in prompt)


def test_a_template_of_ones_own():
    task = label_copy(prompts=8, train_prompts=8, template="{before}{name}={label};{answer}=")
    assert all("=" in e.prompt for e in task.evaluation)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"template": "x"}, "without {label}"),
        ({"template": "{label} {colour}"}, "colour"),
        ({"template": "{label"}, "format string"),
        ({"template": "{label}="}, "made only . (held-out|training) prompts"),
        ({"labels": ("A",)}, "2 different labels"),
        ({"prompts": 0}, "prompts: got 0"),
    ],
)
def test_label_copy_refuses(options, message):
    with pytest.raises(UserError, match=message):
        label_copy(**options)
