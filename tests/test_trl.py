"""CreditMonitor: the run stays as it is, and what is logged is what it is said to be."""

import copy
import math
import warnings

import pytest
import torch
from examples import monitor_trl
from tests import oracles

from valuegrad.credit.costates import costates
from valuegrad.credit.squared_norm import inner_product
from valuegrad.errors import UserError
from valuegrad.impact.headroom import headroom
from valuegrad.trl import BACK, CreditMonitor

LEVEL = 4.5  # of the z-test: two-sided 7e-6
NAMES = ("alignment", "headroom", "transport_share", "zero_spread_groups", "predicted_gain")
PROMPTS = ("label = 'B'\nanswer = '", "x", "for offset in range(", "answer = 12")


def odd(completions, **columns):
    """1 for about half of all texts, so that groups are mixed."""
    return [float(sum(map(ord, c)) % 2) for c in completions]


@pytest.fixture
def make_trainer(checkpoint, tmp_path):
    """Return a trainer of a tiny model; settings as GRPOConfig's."""

    def build(architecture="llama", reward=odd, peft=None, dropout=0.0, **settings):
        warnings.simplefilter("ignore")
        from datasets import Dataset
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from trl import GRPOConfig, GRPOTrainer

        folder = str(checkpoint(architecture))
        model = AutoModelForCausalLM.from_pretrained(
            folder, **({"resid_pdrop": dropout, "attn_pdrop": dropout} if dropout else {})
        )
        known = {
            "num_generations": 8,
            "per_device_train_batch_size": 32,
            "max_completion_length": 4,
            "max_steps": 12,
            "logging_steps": 1,
            "learning_rate": 3e-3,
            "report_to": "none",
            "save_strategy": "no",
            "use_cpu": True,
            "bf16": False,
            "disable_tqdm": True,
        }
        return GRPOTrainer(
            model=model,
            reward_funcs=reward,
            args=GRPOConfig(output_dir=str(tmp_path), **(known | settings)),
            train_dataset=Dataset.from_dict({"prompt": list(PROMPTS) * 16}),
            processing_class=AutoTokenizer.from_pretrained(folder),
            peft_config=peft,
        )

    return build


@pytest.fixture
def batches(monkeypatch):
    """Every batch of rollouts with the rewards and weights of its moment, as monitors saw them."""
    seen = []
    real = CreditMonitor._consider

    def record(self, batch):
        rewards = [list(x) for x in self._trainer._logs["rewards"].values()]
        weights = copy.deepcopy(self._trainer.model.state_dict())
        seen.append((dict(batch), torch.tensor(rewards).double().sum(0), weights))
        real(self, batch)

    monkeypatch.setattr(CreditMonitor, "_consider", record)
    return seen


def kept(trainer):
    """The rows of logs without clocks and without the monitor's own columns."""
    clocks = ("runtime", "per_second", "step_time", "valuegrad/")
    return [
        {k: v for k, v in row.items() if not any(c in k for c in clocks)}
        for row in trainer.state.log_history
    ]


def lora():
    from peft import LoraConfig

    return LoraConfig(r=2, lora_dropout=0.1, task_type="CAUSAL_LM")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"architecture": "gpt2", "dropout": 0.2},
        {
            "gradient_accumulation_steps": 2,
            "num_iterations": 2,
            "steps_per_generation": 4,
            "per_device_train_batch_size": 8,
            "beta": 0.1,
        },
        {"peft": lora, "learning_rate": 3e-2},
    ],
    ids=["plain", "dropout", "reuse", "lora"],
)
def test_the_run_is_the_same_with_and_without(make_trainer, settings):
    results = []
    for watched in (False, True):
        chosen = {k: v() if k == "peft" else v for k, v in settings.items()}
        trainer = make_trainer(**chosen)
        if watched:
            monitor = CreditMonitor(every=3, groups=2).attach(trainer)
        trainer.train()
        weights = {name: x.clone() for name, x in trainer.model.state_dict().items()}
        results.append((kept(trainer), weights, torch.get_rng_state()))
    (rows, weights, chance), (rows_too, weights_too, chance_too) = results
    assert any(row.get("loss") for row in rows)
    assert rows == rows_too
    assert torch.equal(chance, chance_too)
    assert all(torch.equal(x, weights_too[name]) for name, x in weights.items())
    assert len(monitor.history) >= 3
    logged = {key for row in trainer.state.log_history for key in row}
    assert {f"valuegrad/{name}" for name in NAMES} <= logged


def test_measurements_come_every_n_updates_and_join_the_next_row(make_trainer):
    trainer = make_trainer(max_steps=9, logging_steps=1)
    monitor = CreditMonitor(every=4).attach(trainer)
    trainer.train()
    assert [entry["step"] for entry in monitor.history] == [0, 4, 8]
    rows = [r["step"] for r in trainer.state.log_history if "valuegrad/headroom" in r]
    assert rows == [1, 5, 9]
    assert "predicted_gain" not in monitor.history[0]
    assert trainer.state.log_history[4]["valuegrad/headroom"] == monitor.history[1]["headroom"]


def test_rollouts_that_are_used_again_are_measured_once(make_trainer):
    trainer = make_trainer(num_iterations=3, max_steps=9)
    monitor = CreditMonitor(every=1).attach(trainer)
    trainer.train()
    assert [entry["step"] for entry in monitor.history] == [0, 3, 6]


@pytest.mark.parametrize("site", ["final", 0])
def test_alignment_is_that_of_the_score_vectors(make_trainer, batches, policy, site):
    trainer = make_trainer(max_steps=1, max_completion_length=1)
    monitor = CreditMonitor(every=1, site=site).attach(trainer)
    trainer.train()
    ((batch, rewards, weights),) = batches
    model = copy.deepcopy(policy("llama", "float64").model)
    model.load_state_dict({k: v.double() for k, v in weights.items()})
    found = []
    for rows in torch.arange(32).view(4, 8):
        ids = batch["prompt_ids"][rows[0]][batch["prompt_mask"][rows[0]].bool()].tolist()
        scores = oracles.scores(model, ids, (site,))[site][batch["completion_ids"][rows, 0]]
        signal = batch["advantages"][rows].double()
        found.append(float(inner_product(scores, signal, rewards[rows])))
    (entry,) = monitor.history
    assert entry["alignment"] == pytest.approx(sum(found) / 4, rel=1e-3)
    assert entry["alignment"] != 0
    equal = sum(len(set(rewards[rows].tolist())) == 1 for rows in torch.arange(32).view(4, 8))
    assert entry["zero_spread_groups"] == equal
    # A single token has nothing after it.
    assert entry["transport_share"] == pytest.approx(0, abs=1e-6)


def test_transport_share_is_that_of_the_costates(make_trainer, batches, policy):
    trainer = make_trainer(max_steps=1)
    monitor = CreditMonitor(every=1, groups=3).attach(trainer)
    trainer.train()
    ((batch, _, _),) = batches
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)[:24]
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)[:24]
    lengths = batch["prompt_mask"].sum(1)[:24].tolist()
    signal = batch["advantages"][:24].double()
    found = costates(policy("llama"), ids, lengths, signal, 0, attention_mask=mask)
    expected = float(found.transport_share.nanmean())
    assert 0.01 < expected < 1
    assert monitor.history[0]["transport_share"] == pytest.approx(expected, rel=1e-3)


def test_headroom_of_graded_rewards_has_its_first_bias_taken_off(make_trainer, batches):
    trainer = make_trainer(
        max_steps=1, reward=lambda completions, **_: [0.1 * len(c) for c in completions]
    )
    monitor = CreditMonitor(every=1, alpha=2.0).attach(trainer)
    trainer.train()
    ((_, rewards, _),) = batches
    groups = rewards.view(4, 8)
    halves = (headroom(groups[:, :4], 2.0) + headroom(groups[:, 4:], 2.0)) / 2
    expected = float((2 * headroom(groups, 2.0) - halves).mean())
    assert monitor.history[0]["headroom"] == pytest.approx(expected, rel=1e-6)


def test_predicted_gain_is_the_derivative_along_the_last_move(make_trainer, batches, policy):
    size = 200
    trainer = make_trainer(
        max_steps=7,
        max_completion_length=1,
        num_generations=size,
        learning_rate=1e-4,
        per_device_train_batch_size=4 * size,
        shuffle_dataset=False,
        lr_scheduler_type="constant",
    )
    monitor = CreditMonitor(every=3, groups=3).attach(trainer)
    trainer.train()
    reference = policy("llama")
    ids = [reference.tokenizer(q)["input_ids"] for q in PROMPTS]
    tokens = range(reference.head.shape[0])
    texts = [reference.tokenizer.decode([t], skip_special_tokens=True) for t in tokens]
    r = torch.tensor(odd(texts)).double()
    model = copy.deepcopy(reference.model)
    weights = [{k: v.double() for k, v in w.items()} for _, _, w in batches]

    def log_p_at(k, step):
        """Distributions at update k, moved on by a share of the last three updates."""
        now, then = weights[k], weights[k - 3]
        model.load_state_dict({n: now[n] + step * (now[n] - then[n]) for n in now})
        return torch.stack([oracles.distribution(model, q).log() for q in ids])

    def reward_at(k, step):
        return float((log_p_at(k, step).exp() @ r).mean())

    for entry in monitor.history[1:]:
        k = entry["step"]
        log_p = log_p_at(k, 0.0)
        p, change = log_p.exp(), (log_p - log_p_at(k, -BACK)) / BACK
        centred = r - (p @ r)[:, None]
        expected = (p * centred * change).sum(1)
        spread = (p * (centred * change - expected[:, None]) ** 2).sum(1)
        error = float(spread.sum().sqrt()) / 4 / math.sqrt(size)
        assert abs(entry["predicted_gain"] - float(expected.mean())) < LEVEL * error
        # Which is the derivative, but for what bends over the small step back.
        exact = (reward_at(k, 1e-4) - reward_at(k, -1e-4)) / 2e-4
        assert float(expected.mean()) == pytest.approx(exact, rel=0.05)
    # The weights went on about as they had come.
    gain = reward_at(6, 0.0) - reward_at(3, 0.0)
    assert monitor.history[1]["predicted_gain"] == pytest.approx(gain, rel=0.4)


def test_groups_without_what_it_takes_are_left_out(make_trainer):
    def silent(prompts, **_):
        return [None if p == "x" else float(len(p) % 3 == i % 2) for i, p in enumerate(prompts)]

    trainer = make_trainer(max_steps=3, reward=silent)
    monitor = CreditMonitor(every=1).attach(trainer)
    trainer.train()
    assert all(math.isfinite(entry["alignment"]) for entry in monitor.history)
    cut = make_trainer(max_steps=2, mask_truncated_completions=True, max_completion_length=2)
    monitor = CreditMonitor(every=1).attach(cut)
    cut.train()
    assert all("alignment" not in entry for entry in monitor.history)
    assert all("headroom" in entry for entry in monitor.history)


def test_a_measurement_that_fails_does_not_end_the_run(make_trainer, monkeypatch):
    trainer = make_trainer(max_steps=2)
    monitor = CreditMonitor(every=1).attach(trainer)

    def refuse(*_):
        raise UserError("sequences", "too long", "shorter ones", "shorten them")

    monkeypatch.setattr(CreditMonitor, "_measure", refuse)
    with pytest.warns(UserWarning, match="measured nothing at step 1: sequences: got too long"):
        trainer.train()
    assert trainer.state.global_step == 2
    assert trainer.model.training
    assert monitor.history == []


def test_refuses_what_it_cannot_watch(make_trainer, policy):
    monitor = CreditMonitor()
    with pytest.raises(UserError, match=r"trainer: got Linear; wanted TRL's GRPOTrainer"):
        monitor.attach(torch.nn.Linear(1, 1))
    with pytest.raises(UserError, match=r"num_generations: got 2; wanted at least 4"):
        monitor.attach(make_trainer(num_generations=2))
    trainer = make_trainer()
    with pytest.raises(UserError, match=r"site: got 7"):
        CreditMonitor(site=7).attach(trainer)
    trainer.add_callback(monitor)
    with pytest.raises(UserError, match=r"call monitor.attach\(trainer\)"):
        trainer.train()


@pytest.mark.parametrize("setting", [{"every": 0}, {"groups": 0}, {"alpha": 0.0}])
def test_settings_refuse(setting):
    with pytest.raises(UserError, match=next(iter(setting))):
        CreditMonitor(**setting)


def test_the_example_prints_what_it_saw(checkpoint, capsys):
    monitor = monitor_trl.main(str(checkpoint("llama")), steps=2, every=1)
    assert [entry["step"] for entry in monitor.history] == [0, 1]
    assert "valuegrad/predicted_gain" in capsys.readouterr().out
