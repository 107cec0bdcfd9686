"""The RL run is Eq. 1 on the policy that is scored, whatever a checkpoint of any family brings."""

import dataclasses

import pytest
import torch
import transformers
from tests import letters

from valuegrad.budget import Budget
from valuegrad.errors import RunError
from valuegrad.model.loading import load_policy
from valuegrad.rewards.function import FunctionReward
from valuegrad.training import trl_trainer as module
from valuegrad.training.train import train

GPT2 = {
    "vocab_size": len(letters.TOKENS),
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 48,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
OPT = {
    "vocab_size": len(letters.TOKENS),
    "hidden_size": 16,
    "ffn_dim": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 48,
    "word_embed_proj_dim": 16,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
FAMILIES = {
    "olmo2": lambda: transformers.Olmo2Config(**letters.GROUPED),
    "llama": lambda: transformers.LlamaConfig(**letters.GROUPED),
    "qwen3": lambda: transformers.Qwen3Config(head_dim=8, **letters.GROUPED),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(**letters.SHAPE, tie_word_embeddings=False),
    "gpt2": lambda: transformers.GPT2Config(**GPT2),
    "opt": lambda: transformers.OPTConfig(**OPT),
    "mixtral": lambda: transformers.MixtralConfig(
        num_local_experts=4,
        num_experts_per_tok=2,
        output_router_logits=True,
        router_aux_loss_coef=0.5,
        router_jitter_noise=0.3,
        **letters.GROUPED,
    ),
    # A number in the configuration, which no module of dropout holds.
    "llama with dropout": lambda: transformers.LlamaConfig(
        attention_dropout=0.5, **letters.GROUPED
    ),
    "opt with dropout": lambda: transformers.OPTConfig(
        dropout=0.5, attention_dropout=0.5, layerdrop=0.3, **OPT
    ),
}
GENERATION = {
    "do_sample": True,
    "temperature": 0.3,
    "no_repeat_ngram_size": 1,
    "suppress_tokens": [2, 3],
    "min_new_tokens": 2,
    "repetition_penalty": 4.0,
}
BUDGET = Budget(learning_rate=1e-3, updates=(1,), prompts_per_update=3, group_size=8, engine="trl")


def longer(completions, **_):
    return [len(text) + 0.5 * text.count("a") for text in completions]


TASK = letters.task(("a", "a", "a"), reward=FunctionReward("tests:longer", longer))


@pytest.fixture
def saved(tmp_path):
    """Write a random checkpoint of a family and return its policy."""

    def save(name, generation=None, folder="made"):
        config = FAMILIES[name]()
        torch.manual_seed(3)
        model = transformers.AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(std=0.5)
        model.save_pretrained(tmp_path / folder)
        letters.tokenizer().save_pretrained(tmp_path / folder)
        if generation is not None:
            changed = transformers.GenerationConfig.from_model_config(config)
            for key, value in generation.items():
                setattr(changed, key, value)
            (tmp_path / folder / "generation_config.json").write_text(
                changed.to_json_string(use_diff=False)
            )
        return load_policy(str(tmp_path / folder))

    return save


@pytest.fixture
def losses(monkeypatch):
    """Log-probabilities in TRL's loss with what they are of: prompt and completion, unpadded."""
    seen = []
    real = module.Trainer._get_per_token_logps_and_entropies

    def record(self, model, input_ids, attention_mask, kept, *rest, **named):
        found = real(self, model, input_ids, attention_mask, kept, *rest, **named)
        for row, mask, logp in zip(input_ids, attention_mask.bool(), found[0], strict=True):
            count = int(mask[-kept:].sum())
            seen.append((row[mask].tolist(), logp[:count].detach(), int((~mask[:-kept]).sum())))
        return found

    monkeypatch.setattr(module.Trainer, "_get_per_token_logps_and_entropies", record)
    return seen


@pytest.mark.parametrize("name", FAMILIES)
def test_the_loss_is_of_the_log_probabilities_that_are_scored(name, saved, losses):
    policy = saved(name, GENERATION)
    train(policy, TASK, budget=BUDGET)
    assert len(losses) == 24
    assert {padding for _, _, padding in losses} == {0, 2, 3}
    for sequence, found, _ in losses:
        with torch.no_grad():
            logits = policy.model(torch.tensor([sequence]), use_cache=False).logits[0]
        log_p = logits.double().log_softmax(-1)
        expected = [
            float(log_p[i - 1, sequence[i]])
            for i in range(len(sequence) - len(found), len(sequence))
        ]
        torch.testing.assert_close(
            found.double(), torch.tensor(expected).double(), rtol=0, atol=1e-4
        )


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_generation_settings_change_no_run(name, saved):
    budget = dataclasses.replace(BUDGET, updates=(3,), learning_rate=1e-2)
    plain = train(saved(name), TASK, budget=budget)
    odd = train(saved(name, GENERATION, "odd"), TASK, budget=budget)
    assert odd.rewards_after == plain.rewards_after
    assert plain.rewards_after != plain.reward_before


def test_experts_are_trained_on_the_objective_alone(saved, monkeypatch):
    """A run whose groups never differ moves nothing, for there is no loss of the router's."""
    equal = dataclasses.replace(
        TASK,
        reward=FunctionReward("tests:equal", lambda completions, **_: [1.0] * len(completions)),
    )
    seen = []

    def record(parameters, *_, **__):
        seen.extend(float(p.grad.abs().max()) for p in parameters if p.grad is not None)
        return torch.tensor(0.0)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", record)
    train(saved("mixtral"), equal, budget=BUDGET)
    assert seen
    assert max(seen) == 0


def test_a_loss_of_another_distribution_is_refused_with_the_number(saved, monkeypatch):
    policy = saved("llama")

    real = module.GRPOTrainer.__init__

    def start(self, *rest, model, **named):
        with torch.no_grad():
            model.get_output_embeddings().weight.mul_(1.1)
        real(self, *rest, model=model, **named)

    monkeypatch.setattr(module.GRPOTrainer, "__init__", start)
    with pytest.raises(RunError, match=r"log-probabilit.* differ.* by 0\.\d+ nats"):
        train(policy, TASK, budget=BUDGET)
