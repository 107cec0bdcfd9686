"""A task as a policy reads it: its kind, tokens, answers, ends and rewards, tokenised once."""

import copy
import dataclasses
import json
import shutil

import pytest
import torch
import transformers
from tests import letters
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from valuegrad.budget import Budget
from valuegrad.errors import UserError
from valuegrad.impact.score import score
from valuegrad.impact.settings import Sampling
from valuegrad.model.loading import load_policy
from valuegrad.prompts import stop_tokens, tokenise
from valuegrad.rewards.exact import Exact
from valuegrad.rewards.example import Example
from valuegrad.rewards.function import FunctionReward
from valuegrad.tasks.arithmetic import arithmetic
from valuegrad.tasks.task import MAX_TOKENS, Task
from valuegrad.training.train import train

LENGTH = FunctionReward("tests:length", lambda completions, **_: [len(c) / 4 for c in completions])
NAMED = FunctionReward("number", lambda completions, **_: [float("5" in c) for c in completions])


def make(reward=None, answers=("a", "b"), prompts=("x = ", "name: "), **limits):
    examples = tuple(Example(p, a) for p, a in zip(prompts, answers, strict=True))
    return Task("t", examples[:1], examples[1:], reward or Exact(), **limits)


@pytest.mark.parametrize(
    ("task", "kind", "most"),
    [
        (make(), "one token", 1),
        (make(LENGTH), "one token", 1),
        (make(NAMED), "sampled", MAX_TOKENS),
        (make(NAMED, max_tokens=1), "one token", 1),
        (make(answers=("a", "bz")), "exact", 3),
        (make(LENGTH, answers=("a", "bz")), "sampled", MAX_TOKENS),
        (make(max_tokens=2), "exact", 2),
        (make(LENGTH, max_tokens=2), "sampled", 2),
        (make(max_tokens=1), "one token", 1),
        (make(stop="\n"), "exact", 2),
        (make(LENGTH, stop="\n"), "sampled", MAX_TOKENS),
        (make(stop="\n", max_tokens=1), "one token", 1),
    ],
)
def test_the_kind_follows_answers_reward_and_limits(policy, task, kind, most):
    if most == MAX_TOKENS:
        task = dataclasses.replace(task, max_tokens=24)
        most = 24
    both = tokenise(policy("gpt2"), task)
    assert both.kind == both.train.kind == both.evaluation.kind == kind
    for prompts in (both.train, both.evaluation):
        assert prompts.max_tokens == most
        assert bool(prompts.stops) == (kind != "one token")
        assert prompts.reward == task.reward
        # With a limit of one token a reward of texts is asked about tokens, not about the answer.
        compared = prompts.exact or (kind == "one token" and task.max_tokens is None)
        assert all(bool(answer) == compared for answer in prompts.answers)


def test_without_limits_of_its_own_a_reward_of_texts_allows_the_default(policy):
    roomy = copy.copy(policy("gpt2"))
    roomy.__dict__["context"] = 4 * MAX_TOKENS
    assert tokenise(roomy, make(NAMED)).evaluation.max_tokens == MAX_TOKENS


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_tokens_and_answers_are_the_tokenizers(policy, architecture):
    chosen, task = policy(architecture), arithmetic(prompts=5, train_prompts=7, digits=2)
    both = tokenise(chosen, task)
    assert (len(both.train), len(both.evaluation)) == (7, 5)
    for prompts, examples in ((both.train, task.train), (both.evaluation, task.evaluation)):
        assert prompts.examples == examples
        for example, tokens, answer in zip(examples, prompts.tokens, prompts.answers, strict=True):
            assert list(tokens) == chosen.tokenizer(example.prompt)["input_ids"]
            whole = chosen.tokenizer(example.prompt + example.answer)["input_ids"]
            assert [*tokens, *answer] == whole
        assert prompts.first_answers.tolist() == [a[0] for a in prompts.answers]
        # The task's line break beside the model's own stop token.
        newline = chosen.tokenizer("\n")["input_ids"]
        assert prompts.stops == (0, *newline)
        assert prompts.accepted(1) == [(*prompts.answers[1], s) for s in prompts.stops]
    # The longest answer of both splits and its stop token.
    longest = max(len(a) for p in (both.train, both.evaluation) for a in p.answers)
    assert both.train.max_tokens == both.evaluation.max_tokens == longest + 1


def test_some_prompts_in_any_order():
    policy = letters.policy("llama")
    prompts = letters.asked(policy, letters.task(letters.answers("llama")))
    some = prompts.some([2, 0, 2])
    for name in ("examples", "tokens", "answers"):
        column = getattr(prompts, name)
        assert getattr(some, name) == (column[2], column[0], column[2])
    assert (some.kind, some.stops, some.reward) == (prompts.kind, prompts.stops, prompts.reward)


@pytest.fixture
def calls(monkeypatch):
    """Return a function that watches a policy's tokenizer: the lists of texts that it is given."""

    def watch(policy):
        watched, seen = policy.tokenizer, []
        real = type(watched).__call__

        def call(self, text, *rest, **options):
            if self is watched and isinstance(text, list):
                seen.append(text)
            return real(self, text, *rest, **options)

        monkeypatch.setattr(type(watched), "__call__", call)
        return seen

    return watch


KINDS = {
    "one token": make(answers=("a", "b")),
    "one token, graded": make(LENGTH),
    "exact": make(answers=("az", "bz")),
    "sampled": make(LENGTH, max_tokens=3),
}


def texts_of(task, kind):
    examples = [*task.train, *task.evaluation]
    prompts = [e.prompt for e in examples]
    return [prompts] if kind == "sampled" else [prompts, [e.prompt + e.answer for e in examples]]


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_score_tokenises_each_kind_of_text_once(policy, calls, kind):
    seen = calls(policy("gpt2"))
    sampling = Sampling(rollouts=4, branch=1)
    score(policy("gpt2"), KINDS[kind], site=0, sampling=sampling, budget=Budget(group_size=2))
    assert seen == texts_of(KINDS[kind], kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_run_of_training_tokenises_each_kind_of_text_once(policy, calls, kind):
    seen = calls(policy("gpt2", "float32"))
    budget = Budget(updates=(1, 2), group_size=2, prompts_per_update=2)
    train(policy("gpt2", "float32"), KINDS[kind], budget=budget)
    assert seen == texts_of(KINDS[kind], kind)


def test_prompts_of_a_score_serve_its_training(policy, calls):
    chosen = policy("gpt2", "float32")
    tokenise(chosen, KINDS["one token"])
    seen = calls(chosen)
    budget = Budget(updates=(1,), group_size=2, prompts_per_update=2)
    found = train(chosen, KINDS["one token"], budget=budget)
    assert seen == []
    other = dataclasses.replace(KINDS["one token"], name="another")
    assert found == train(chosen, other, budget=budget)
    assert seen == texts_of(other, "one token")


# --- rewards -------------------------------------------------------------------------------------


def test_the_table_is_the_reward_of_every_token(policy):
    """A function is asked about each prompt's vocabulary once; an exact reward needs no function.

    Rows that pad the output head stand for no text.
    """
    chosen, asked = policy("gpt2"), []

    def f(prompts, completions, completion_ids, answer, **_):
        asked.append(prompts[0])
        return [len(c) + (a == "a") for c, a in zip(completions, answer, strict=True)]

    vocabulary, known = chosen.head.shape[0], len(chosen.tokenizer)
    assert vocabulary > known
    prompts = tokenise(chosen, make(FunctionReward("tests:f", f))).evaluation.some([0, 0])
    prompts = dataclasses.replace(
        prompts, examples=(Example("p", "a"), Example("q", "b")), answers=((1,), (2,))
    )
    table = prompts.reward_table(chosen, [1, 0, 1])
    assert table.shape == (3, vocabulary)
    assert table.dtype == torch.float64
    assert torch.equal(table[0], table[2])
    assert torch.equal(table[1], table[0] + 1)
    decode = chosen.tokenizer.decode
    texts = [decode([t], skip_special_tokens=True) if t < known else "" for t in range(vocabulary)]
    assert table[0].tolist() == [float(len(text)) for text in texts]
    prompts.reward_table(chosen, [0])
    assert asked == ["q", "p"]
    # Of other rewards nothing that was asked before remains.
    again = dataclasses.replace(prompts, reward=LENGTH).reward_table(chosen, [0])
    assert again[0].tolist() == [len(text) / 4 for text in texts]
    exact = dataclasses.replace(prompts, reward=Exact()).reward_table(chosen, [1, 0])
    assert exact.nonzero().tolist() == [[0, 2], [1, 1]]


def test_exact_rewards_are_by_tokens_and_other_rewards_by_text():
    policy = letters.policy("llama")
    prompts = letters.asked(policy, letters.task(letters.answers("llama")))
    answer = prompts.answers[1]
    # The right text without a stop token, or with other tokens of the same text, earns nothing.
    others = [(*answer, 0), (*answer, 1), answer, (*answer, 0, 0), (*answer, *answer, 0)]
    found = prompts.rewards_of(policy, [1], [others], [["x"] * len(others)])
    assert found.tolist() == [[1.0, 1.0, 0.0, 0.0, 0.0]]
    assert found.dtype == torch.float64
    graded = dataclasses.replace(prompts, reward=LENGTH)
    assert graded.rewards_of(policy, [1, 0], [[(2, 3, 1)], [(4,)]]).tolist() == [[0.5], [0.25]]
    read = graded.rewards_of(policy, [1], [[(2, 1), (3, 1)]], [["four", "x"]])
    assert read.tolist() == [[1.0, 0.25]]


def test_a_text_ends_before_its_stop_token_and_leaves_out_what_pads_the_head(policy):
    chosen = policy("gpt2")
    prompts = tokenise(chosen, KINDS["sampled"]).evaluation
    encode = chosen.tokenizer
    tokens = encode("ab")["input_ids"]
    assert prompts.text(chosen, [*tokens, 0]) == "ab"
    assert prompts.text(chosen, tokens) == "ab"
    assert prompts.text(chosen, [0]) == ""
    assert prompts.text(chosen, [*tokens, len(encode) + 1]) == "ab"
    assert prompts.text(chosen, [len(encode)]) == ""
    # A stop inside, which no draw has, is a special token and no text either.
    assert prompts.text(chosen, [0, *tokens]) == "ab"


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (Task("t", (), (Example("a", "b"),), Exact()), "task: got no prompts; wanted at least one"),
        (Task("t", (Example("a", "b"),), (), Exact()), "task: got no prompts"),
        (make(answers=("a", "")), r"answer '': got the tokens \[\].*wanted exactly one token"),
        (make(answers=("az", "")), r"answer '': .*wanted one token or more"),
        # "i" and "n" are one token where they meet.
        (
            make(prompts=("x", "i"), answers=("az", "nz")),
            r"answer 'nz': got the tokens \['in', 'z'\] after the prompt 'i'.*one token or more",
        ),
        (make(prompts=("x", "i"), answers=("a", "n")), r"answer 'n': .*exactly one token"),
        (make(max_tokens=1, answers=("az", "a")), r"answer 'az': .*wanted exactly one token"),
        (make(prompts=("x", ""), answers=("a", "b")), r"answer 'b': .* after the prompt ''"),
        (make(LENGTH, max_tokens=3, prompts=("x", "")), r"prompt ''….*0 tokens; wanted 1 to 45"),
        (
            make(prompts=("x", "az" * 30)),
            r"prompt 'azaz.*60 tokens; wanted 1 to 47, which leaves room for 1 more in a context "
            r"of 48.*shorten the prompt, or lower `max_tokens`",
        ),
        (make(answers=("wxyz", "a"), max_tokens=4), "max_tokens: got 4; wanted at least 5"),
        (make(LENGTH, max_tokens=48), r"max_tokens: got 48; wanted below 48.*24 or less"),
        (make(NAMED), "max_tokens: got 256; wanted below 48, this model's context"),
        (make(stop="zq"), r"stop: got 'zq', 2 tokens of this model; wanted a text of one token"),
    ],
)
def test_refuses(policy, task, message):
    with pytest.raises(UserError, match=message):
        tokenise(policy("gpt2"), task)


def test_stop_tokens_are_the_models_the_tokenizers_and_the_tasks(policy, checkpoint, tmp_path):
    chosen, newline = policy("gpt2"), policy("gpt2").tokenizer("\n")["input_ids"]
    assert stop_tokens(chosen, make(stop="\n")) == (0, *newline)
    assert stop_tokens(chosen, make()) == (0,)
    folder = shutil.copytree(checkpoint("gpt2"), tmp_path / "step1")
    for name, change in (
        ("generation_config.json", {"eos_token_id": None}),
        ("config.json", {"eos_token_id": None}),
        ("tokenizer_config.json", {"eos_token": None}),
    ):
        settings = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(settings | change))
    endless = load_policy(str(folder))
    assert stop_tokens(endless, make(stop="\n")) == tuple(newline)
    with pytest.raises(UserError, match=r"without a stop token; wanted an eos token, or `stop`"):
        stop_tokens(endless, make())
    # Completions of one token need none.
    assert tokenise(endless, make()).evaluation.stops == ()


def test_a_reward_of_texts_takes_answers_of_any_length_where_completions_are_one_token(policy):
    both = tokenise(policy("gpt2"), make(LENGTH, max_tokens=1, answers=("a", "bz")))
    assert (both.kind, both.train.answers) == ("one token", ((),))
    assert both.evaluation.reward_table(policy("gpt2"), [0]).shape[0] == 1


def metaspace(folder):
    """A policy whose tokenizer writes a space before a text, as SentencePiece does."""
    pieces = ["<unk>", "</s>", "▁", "<0x0A>", ";", "a", "b", "▁a", "▁b", "▁;"]
    saved = Tokenizer(
        models.BPE(
            {piece: i for i, piece in enumerate(pieces)},
            [("▁", "a"), ("▁", "b"), ("▁", ";")],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    saved.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    saved.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=saved, eos_token="</s>", unk_token="<unk>"
    )
    torch.manual_seed(0)
    shape = letters.GROUPED | {"vocab_size": len(pieces), "eos_token_id": 1, "bos_token_id": None}
    config = transformers.LlamaConfig(**shape)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load_policy(str(folder))


def test_a_stop_is_the_token_that_follows_a_text(tmp_path):
    policy = metaspace(tmp_path / "made")
    examples = (Example("a", "b"),)
    for stop, token in ((";", 4), ("\n", 3)):
        task = Task("t", examples, examples, Exact(), stop=stop)
        assert stop_tokens(policy, task) == (1, token)


def test_answers_without_a_spelling_are_refused(tmp_path):
    policy = metaspace(tmp_path / "made")
    examples = (Example("a", "ω"),)
    with pytest.raises(UserError, match=r"'ω', which holds what this tokenizer has no token for"):
        tokenise(policy, Task("t", examples, examples, Exact()))


def test_prompts_on_both_sides_of_a_switch_of_rotary_angles_are_refused(tmp_path):
    rope = {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "short_factor": [1.0] * 4,
        "long_factor": [1.0, 2.0, 3.0, 4.0],
        "original_max_position_embeddings": 6,
    }
    config = transformers.Phi3Config(
        **letters.GROUPED, original_max_position_embeddings=6, rope_parameters=rope
    )
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    letters.tokenizer().save_pretrained(tmp_path)
    policy = load_policy(str(tmp_path))
    for prompts, fit in ((("ab", "abc"), True), (("ab", "abcdabcd"), False), (("abcdabcd",), True)):
        examples = tuple(Example(prompt, "a") for prompt in prompts)
        task = Task("t", examples, examples, Exact())
        if fit:
            tokenise(policy, task)
        else:
            with pytest.raises(UserError, match=r"all up to 6 tokens, where this model's rotary"):
                tokenise(policy, task)
