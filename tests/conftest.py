"""Tiny random checkpoints of five architectures, tasks on them, and a TRL trainer."""

import functools
import os
import warnings

# Before the hub's client is imported, which reads it then: no test depends on a network.
os.environ["HF_HUB_OFFLINE"] = "1"

import jaxtyping
import pytest
import torch
import transformers
from tests import oracles
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from valuegrad.model.loading import load_policy
from valuegrad.rewards.exact import Exact
from valuegrad.rewards.example import Example
from valuegrad.rewards.function import FunctionReward
from valuegrad.tasks.task import Task

torch.set_num_threads(1)

ARCHITECTURES = ("olmo2", "gpt_neox", "llama", "qwen3", "gpt2")
SITES = ("embedding", 0, 1, "final")
SNIPPET = """
label = 'B'
answer = 'B'
def width(name, kind): return kind + len(name) if name else 0
for offset in range(12): print(offset, 'total', label)
"""
PROMPTS = (
    "label = 'B'\nanswer = '",
    "x",
    "for offset in range(",
    "def width(name, kind): return",
    "answer = 12",
)
TRAIN_PROMPTS = ("total = '", "name(offset, kind", "if label")
# Of the answers among the tokens that can follow, likely ones first, as a share of their number.
RANKS = (0.0, 0.5, 0.004, 0.9, 0.02)
TRAIN_RANKS = (0.0, 0.02, 0.004)
PADDING_ROWS = 5
_SHAPE = {
    "bos_token_id": 0,
    "eos_token_id": 0,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 48,
}
_NORMALISED = {**_SHAPE, "num_key_value_heads": 2, "tie_word_embeddings": False}
CONFIGS = {
    "olmo2": lambda v: transformers.Olmo2Config(vocab_size=v, **_NORMALISED),
    "llama": lambda v: transformers.LlamaConfig(
        vocab_size=v, **(_NORMALISED | {"num_key_value_heads": 1})
    ),
    "qwen3": lambda v: transformers.Qwen3Config(
        vocab_size=v, head_dim=8, **(_NORMALISED | {"tie_word_embeddings": True})
    ),
    "gpt_neox": lambda v: transformers.GPTNeoXConfig(
        vocab_size=v, tie_word_embeddings=False, **_SHAPE
    ),
    "gpt2": lambda v: transformers.GPT2Config(
        vocab_size=v, n_embd=16, n_layer=2, n_head=2, n_positions=48, bos_token_id=0, eos_token_id=0
    ),
}


@functools.cache
def _tokenizer():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=280,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([SNIPPET], trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>"
    )


@pytest.fixture
def unchecked():
    """Without the tests' type checks, as for users: wrong types meet the package's own messages."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """Return the folder of an architecture's checkpoint; written at the first call."""

    @functools.cache
    def build(architecture):
        folder = tmp_path_factory.mktemp("checkpoints") / f"{architecture}-step7"
        tokenizer = _tokenizer()
        torch.manual_seed(ARCHITECTURES.index(architecture))
        config = CONFIGS[architecture](len(tokenizer) + PADDING_ROWS)
        model = transformers.AutoModelForCausalLM.from_config(config)
        generator = torch.Generator().manual_seed(17)
        with torch.no_grad():
            # Every weight is drawn, norms and biases too, so that none can be forgotten unseen.
            for name, parameter in model.named_parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                norm = parameter.dim() == 1 and name.endswith("weight")
                parameter.copy_(1 + 0.3 * noise if norm else 0.6 * noise)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return build


@pytest.fixture(scope="session")
def policy(checkpoint):
    """Return the policy of an architecture at a dtype; shared, so tests leave it as it is."""
    return functools.cache(
        lambda architecture, dtype="float64": load_policy(
            str(checkpoint(architecture)), dtype=dtype
        )
    )


def graded(prompts, completions, answer, bonus, **columns):
    """Score in [-0.5, 2.5]: not binary, different for every prompt, in TRL's signature."""
    return [
        b * (c == a) + 0.25 * (len(c) % 3) - 0.5 * c.startswith(" ") + 0.5 * ("a" in c)
        for c, a, b in zip(completions, answer, bonus, strict=True)
    ]


def make_examples(policy, prompts, ranks):
    """Examples whose answers are one token each, from very likely ones to very unlikely ones."""
    tokenizer, examples = policy.tokenizer, []
    for i, prompt in enumerate(prompts):
        ids = tokenizer(prompt)["input_ids"]
        order = oracles.distribution(policy.model, ids).argsort(descending=True).tolist()
        texts = [tokenizer.decode([a]) for a in order if 0 < a < len(tokenizer)]
        fit = [t for t in texts if tokenizer(prompt + t)["input_ids"][:-1] == ids]
        answer = fit[int(ranks[i] * len(fit))]
        examples.append(Example(prompt, answer, {"bonus": 1.0 + 0.25 * i}))
    return tuple(examples)


REWARDS = {"exact": Exact(), "graded": FunctionReward("tests:graded", graded)}


@pytest.fixture(scope="session")
def task(policy):
    """Return a task by architecture and reward, its answers fixed by the float64 policy."""

    @functools.cache
    def build(architecture, reward="exact"):
        reference = policy(architecture)
        return Task(
            reward,
            make_examples(reference, TRAIN_PROMPTS, TRAIN_RANKS),
            make_examples(reference, PROMPTS, RANKS),
            REWARDS[reward],
        )

    return build


def reward_vector(policy, task, example):
    """The reward of every row of the vocabulary, one call a token."""
    tokenizer = policy.tokenizer
    right = tokenizer(example.prompt + example.answer)["input_ids"][-1]
    rewards = torch.zeros(policy.head.shape[0], dtype=torch.float64)
    for a in range(len(rewards)):
        text = tokenizer.decode([a], skip_special_tokens=True) if a < len(tokenizer) else ""
        if task.reward == REWARDS["exact"]:
            rewards[a] = float(a == right)
        else:
            columns = {k: [v] for k, v in example.columns.items()}
            (rewards[a],) = task.reward.function(
                prompts=[example.prompt], completions=[text], answer=[example.answer], **columns
            )
    return rewards


@pytest.fixture(scope="session")
def enumeration(policy, task):
    """Return token ids, distributions, rewards and scores {site: …}, a list over the prompts."""

    @functools.cache
    def known(architecture):
        reference = policy(architecture)
        examples = task(architecture).evaluation
        ids = [reference.tokenizer(e.prompt)["input_ids"] for e in examples]
        ps = [oracles.distribution(reference.model, prompt) for prompt in ids]
        scores = [oracles.scores(reference.model, prompt, SITES) for prompt in ids]
        return ids, ps, {site: [s[site] for s in scores] for site in SITES}

    @functools.cache
    def build(architecture, reward="exact"):
        ids, ps, scores = known(architecture)
        reference, chosen = policy(architecture), task(architecture, reward)
        rs = [reward_vector(reference, chosen, e) for e in chosen.evaluation]
        return ids, ps, rs, scores

    return build


@pytest.fixture(scope="session")
def training(policy, task):
    """Return token ids and rewards of every token, a list over the training prompts."""

    @functools.cache
    def build(architecture, reward="exact"):
        reference, chosen = policy(architecture), task(architecture, reward)
        ids = [reference.tokenizer(e.prompt)["input_ids"] for e in chosen.train]
        return ids, [reward_vector(reference, chosen, e) for e in chosen.train]

    return build


@pytest.fixture(scope="module")  # any new training arguments reset accelerate's one state
def trl_trainer(checkpoint, tmp_path_factory):
    """Return a real GRPOTrainer with TRL's own loss; tests set what it reads and replaces."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from datasets import Dataset
        from trl import GRPOConfig, GRPOTrainer

        arguments = GRPOConfig(
            output_dir=str(tmp_path_factory.mktemp("trl")),
            loss_type="grpo",
            num_generations=4,
            per_device_train_batch_size=4,
            max_completion_length=8,
            report_to="none",
            use_cpu=True,
            bf16=False,
        )
        trainer = GRPOTrainer(
            model=str(checkpoint("llama")),
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            args=arguments,
            train_dataset=Dataset.from_dict({"prompt": ["label"] * 4}),
            processing_class=_tokenizer(),
        )
    trainer.current_gradient_accumulation_steps = 1
    return trainer
