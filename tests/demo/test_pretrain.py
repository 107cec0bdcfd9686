"""Pretraining: the same weights from the same seed, also after an interruption."""

from dataclasses import replace

import pytest

import valuegrad as vg
from valuegrad.demo.pretrain import Recipe, pretrain
from valuegrad.errors import RunError, UserError

CODE = Recipe(
    vocabulary=280,
    width=16,
    layers=1,
    heads=2,
    feed_forward=24,
    sequence=16,
    batch_tokens=64,
    steps=6,
    every=2,
    learning_rate=1e-2,
    warmup=2,
)
ARITHMETIC = replace(CODE, arithmetic=0.5, digits=1)
STEPS = ["step2", "step4", "step6"]
TEXTS = [
    "def total(prices):\n    return sum(price for price in prices)\n",
    "for offset in range(12):\n    print(offset, 'total', label)\n",
    "class Width:\n    def __init__(self, name):\n        self.name = self.kind = name\n",
    "label = 'B'\nanswer = '12 * 7'\n",
]


@pytest.fixture(autouse=True)
def short_texts(monkeypatch):
    """A few short texts stand for the standard library's source."""
    monkeypatch.setattr("valuegrad.demo.text.standard_library", lambda: TEXTS)


def weights(folder):
    return [(folder / step / "model.safetensors").read_bytes() for step in STEPS]


def interrupted(folder, recipe, at):
    """Begin a run that is interrupted after a step."""

    def stop(step, loss):
        if step == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(folder, recipe, progress=stop)


@pytest.mark.parametrize("recipe", [CODE, ARITHMETIC])
def test_the_weights_follow_from_recipe_and_seed(tmp_path, recipe):
    losses = []
    written = pretrain(tmp_path / "a", recipe, progress=lambda step, loss: losses.append(loss))
    assert written == [tmp_path / "a" / step for step in STEPS]
    assert len(losses) == 6
    pretrain(tmp_path / "b", recipe)
    pretrain(tmp_path / "c", recipe, seed=1)
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    assert len({*weights(tmp_path / "a"), *weights(tmp_path / "c")}) == 6


@pytest.mark.parametrize("recipe", [CODE, ARITHMETIC])
@pytest.mark.parametrize("at", [1, 4, 5])
def test_an_interrupted_run_goes_on_to_the_same_weights(tmp_path, recipe, at):
    pretrain(tmp_path / "whole", recipe)
    interrupted(tmp_path / "cut", recipe, at)
    steps = []
    pretrain(tmp_path / "cut", recipe, progress=lambda step, loss: steps.append(step))
    assert steps == list(range(at // 2 * 2 + 1, 7))
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    left = sorted(path.name for path in (tmp_path / "cut").iterdir())
    assert left == ["pretrain.json", *STEPS]


def test_a_finished_run_is_left_alone(tmp_path):
    written = pretrain(tmp_path / "a", CODE)
    files = [path for path in (tmp_path / "a").rglob("*") if path.is_file()]
    before = [(path.stat().st_mtime_ns, path.stat().st_ino) for path in files]
    steps = []
    assert pretrain(tmp_path / "a", CODE, progress=lambda step, loss: steps.append(step)) == written
    assert steps == []
    assert [(path.stat().st_mtime_ns, path.stat().st_ino) for path in files] == before
    assert sorted(p for p in (tmp_path / "a").rglob("*") if p.is_file()) == sorted(files)


def test_a_folder_of_another_run_or_with_something_else_is_refused(tmp_path):
    pretrain(tmp_path / "a", CODE)
    before = weights(tmp_path / "a")
    for recipe, seed in ((replace(CODE, width=32), 0), (CODE, 1)):
        with pytest.raises(UserError, match=r"folder: .*another recipe or seed.*pretrain.json"):
            pretrain(tmp_path / "a", recipe, seed=seed)
    assert weights(tmp_path / "a") == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(UserError, match="mine, which holds other files; wanted an empty or a new"):
        pretrain(tmp_path / "mine", CODE)
    with pytest.raises(UserError, match=r"notes.txt, a file; wanted an empty or a new folder"):
        pretrain(tmp_path / "mine" / "notes.txt", CODE)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_what_is_not_in_use_does_not_tell_runs_apart(tmp_path):
    written = pretrain(tmp_path / "a", CODE)
    assert pretrain(tmp_path / "a", replace(CODE, digits=5)) == written


def test_a_loss_that_leaves_the_numbers_stops_the_run(tmp_path):
    with pytest.raises(RunError, match=r"the loss became (nan|inf) at step"):
        pretrain(tmp_path / "a", replace(CODE, learning_rate=1e30, warmup=1))


def test_a_checkpoint_is_a_policy(tmp_path):
    last = pretrain(tmp_path / "a", ARITHMETIC)[-1]
    policy = vg.load_policy(str(last))
    assert (policy.checkpoint.label, policy.checkpoint.step) == ("step6", 6)
    assert policy.head.shape == (280, 16)
    assert policy.tokenizer.tokenize("12+3") == ["1", "2", "+", "3"]
    assert policy.tokenizer.decode(policy.tokenizer("total = 12")["input_ids"]) == "total = 12"
