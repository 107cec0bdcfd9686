"""Policies over six tokens, two of which end a completion, so that every completion is known."""

import functools
import itertools
import tempfile

import torch
import transformers
from tests import oracles
from tests.conftest import CONFIGS, SITES
from tests.oracles import completions as oracle
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from valuegrad.model.loading import load_policy
from valuegrad.prompts import tokenise
from valuegrad.rewards.exact import Exact
from valuegrad.rewards.example import Example
from valuegrad.sampler import Rollouts, rollouts
from valuegrad.tasks.task import Task

TOKENS = ("<|end|>", "\n", "a", "b", "c", "d")
STOPS = (0, 1)
SHAPE = {
    "vocab_size": len(TOKENS),
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 48,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
GROUPED = {**SHAPE, "num_key_value_heads": 2, "tie_word_embeddings": False}
MAX_TOKENS = 3
PROMPTS = ("ab", "cadbd", "b\na")
# Of the right lengths, an answer of each prompt by how likely it is.
ANSWERS = ((1, 0), (2, 1), (2, 4))


def tokenizer():
    letters = Tokenizer(models.WordLevel({t: i for i, t in enumerate(TOKENS)}, "<|end|>"))
    letters.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    letters.decoder = decoders.Fuse()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=letters, eos_token="<|end|>", pad_token="<|end|>"
    )


@functools.cache
def policy(architecture="llama", dtype="float64", seed=23, scale=0.6, generation=()):
    """A checkpoint's policy, every weight drawn; `generation` goes to its generation_config."""
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[architecture](len(TOKENS)))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            norm = parameter.dim() == 1 and name.endswith("weight")
            parameter.copy_(1 + 0.3 * noise if norm else scale * noise)
    for name, setting in generation:
        setting = list(setting) if isinstance(setting, tuple) else setting
        setattr(model.generation_config, name, setting)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tokenizer().save_pretrained(folder)
        return load_policy(folder, dtype=dtype)


def ids(prompt):
    return [TOKENS.index(letter) for letter in prompt]


def text(tokens):
    return "".join(TOKENS[t] for t in tokens)


@functools.cache
def answers(architecture="llama", ranks=ANSWERS, **options):
    """Answers of given lengths, the likeliest first, as text."""
    model = policy(architecture, **options).model
    found = []
    for prompt, (length, rank) in zip(PROMPTS, ranks, strict=True):
        with torch.no_grad():
            every = [
                (float(oracle.value(model, ids(prompt), c[:-1], STOPS)), c[:-1])
                for c in oracle.every_completion(len(TOKENS), STOPS, MAX_TOKENS)
                if c[-1] == STOPS[0] and len(c) == length + 1
            ]
        found.append(text(sorted(every, reverse=True)[rank][1]))
    return tuple(found)


def task(texts, prompts=PROMPTS, reward=None, max_tokens=MAX_TOKENS, stop="\n"):
    examples = tuple(Example(p, a) for p, a in zip(prompts, texts, strict=True))
    return Task("letters", examples, examples, reward or Exact(), max_tokens, stop)


def asked(policy, task):
    return tokenise(policy, task).evaluation


@functools.cache
def asked_for_answers(architecture, dtype="float64"):
    """The prompts with the answers of `answers`, tokenised."""
    return asked(policy(architecture, dtype), task(answers(architecture)))


@functools.cache
def enumeration(architecture):
    """Probabilities, rewards and scores of every completion; next-token entropy of each prompt."""
    model, prompts = policy(architecture).model, asked_for_answers(architecture)
    every = tuple(oracle.every_completion(len(TOKENS), STOPS, MAX_TOKENS))
    ps, rs, scores, entropy = [], [], {site: [] for site in SITES}, 0.0
    for tokens, answer in zip(prompts.tokens, prompts.answers, strict=True):
        log_p, found = oracle.scores(model, list(tokens), every, SITES)
        assert abs(float(log_p.exp().sum()) - 1) < 1e-12
        ps.append(log_p.exp())
        rs.append(oracle.indicator(every, answer, STOPS))
        next_p = oracles.distribution(model, list(tokens))
        entropy -= float((next_p * next_p.log()).sum()) / len(prompts)
        for site in SITES:
            scores[site].append(found[site])
    return ps, rs, scores, entropy


def repeated(prompts, times):
    """Every prompt as often, so that one measurement holds independent repetitions."""
    return prompts.some([row for row in range(len(prompts)) for _ in range(times)])


def regrouped(drawn, size):
    """Large groups of rollouts cut into groups of one size, as of `repeated` prompts."""
    times = drawn.rewards.shape[1] // size

    def cut(groups):
        return tuple(g[k * size : (k + 1) * size] for g in groups for k in range(times))

    return Rollouts(
        tuple(p for p in drawn.prefixes for _ in range(times)),
        cut(drawn.completions),
        cut(drawn.texts),
        *(x.reshape(-1, size) for x in (drawn.rewards, drawn.logp, drawn.truncated, drawn.empty)),
    )


@functools.cache
def varied(architecture, max_tokens=MAX_TOKENS, stop="\n", count=48, **options):
    """Prompts of up to three letters with answers that their policy gives: a task, tokenised."""
    chosen = policy(architecture, **options)
    texts = ["".join(t) for k in (1, 2, 3) for t in itertools.product("abcd", repeat=k)][::-1]
    blank = asked(chosen, task(["a"] * len(texts), texts, max_tokens=max_tokens, stop=stop))
    drawn = rollouts(chosen, blank, 8, seed=77)
    known = {}
    for prompt, group in zip(texts, drawn.completions, strict=True):
        for completion in group:
            words = [t for t in completion if t not in STOPS or not blank.stops]
            if len(words) + bool(blank.stops) == len(completion) and words and min(words) > 1:
                known.setdefault(prompt, text(words))
    prompts = list(known)[:count]
    return asked(
        chosen, task([known[p] for p in prompts], prompts, max_tokens=max_tokens, stop=stop)
    )
