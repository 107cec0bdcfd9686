"""Texts as the tokens of a policy, held to the tokenizer.json that lies beside its weights.

transformers picks a tokenizer's class by the model's type, and a class may put its own splitting
rule and special tokens in the place of the file's. A model reads what it was trained on only where
both agree.
"""

from collections.abc import Sequence
from itertools import takewhile, zip_longest
from typing import Any

from transformers import AutoTokenizer

from valuegrad.checkpoints.checkpoint import Checkpoint
from valuegrad.errors import UserError, first_line
from valuegrad.model.policy import Policy

Tokens = tuple[int, ...]
_PROBES = (
    "name = 'A'\nkind = '",
    "    self.x = 12\n\treturn  foo(bar)",
    "héllo wörld 123456 — 日本",
    "a\n\n\nb 2023, don't",
    " 3.14 <b>x</b>",
)


def load_tokenizer(checkpoint: Checkpoint, trusted: dict[str, bool]) -> Any:
    """The tokenizer of a checkpoint that is here."""
    try:
        return AutoTokenizer.from_pretrained(checkpoint.path, **trusted)
    except Exception as error:  # the package tokenizers raises nothing narrower
        got = f"a folder without a usable tokenizer ({first_line(error)})"
        wanted = "the tokenizer that the model was trained with"
        fix = "save it beside the weights with tokenizer.save_pretrained"
        raise UserError(checkpoint.name, got, wanted, fix) from error


def check_tokenizer(policy: Policy) -> None:
    """Refuse a tokenizer with more tokens than the model, or that is not the folder's."""
    largest, rows = max(policy.token_ids), policy.head.shape[0]
    if largest >= rows:
        got = f"a tokenizer with token ids up to {largest} and a model of {rows} tokens"
        wanted = "a tokenizer that fits the model's vocabulary"
        fix = "put the tokenizer that the model was trained with beside its weights"
        raise UserError(policy.checkpoint.name, got, wanted, fix)
    encode(policy, _PROBES)


def encode(policy: Policy, texts: Sequence[str]) -> list[Tokens]:
    """The tokens of texts that are to be continued: one BOS at most, and nothing behind."""
    read = policy.tokenizer(list(texts), return_special_tokens_mask=True)
    if saved := policy.saved_tokenizer:
        known = saved.encode_batch(list(texts))
        for text, ids, encoding in zip(texts, read["input_ids"], known, strict=True):
            if ids != encoding.ids:
                raise _disagreement(policy, text, ids, encoding.ids)
    pairs = zip(read["input_ids"], read["special_tokens_mask"], strict=True)
    return [_open_ended(policy, ids, added) for ids, added in pairs]


def _open_ended(policy: Policy, ids: list[int], added: list[int]) -> Tokens:
    """Without a BOS before one that the text itself brings; refused with anything behind."""
    start, end = (len(list(takewhile(bool, side))) for side in (added, reversed(added)))
    if end and start < len(ids):
        behind = policy.tokenizer.convert_ids_to_tokens(ids[-end:])
        got = f"a tokenizer that puts {' '.join(behind)} behind every text"
        wanted = "prompts that a policy can continue"
        fix = "take it out of the post_processor in tokenizer.json; only fine-tuning needs it"
        raise UserError(policy.checkpoint.name, got, wanted, fix)
    doubled = start and ids[:start] == ids[start : 2 * start]
    return tuple(ids[start:] if doubled else ids)


def _disagreement(
    policy: Policy, text: str, found: Sequence[int], saved: Sequence[int]
) -> UserError:
    same = next(i for i, (a, b) in enumerate(zip_longest(found, saved)) if a != b)
    one, other = (
        " ".join(policy.tokenizer.convert_ids_to_tokens(list(ids[same : same + 3]))) or "nothing"
        for ids in (found, saved)
    )
    got = (
        f"a {type(policy.tokenizer).__name__} that reads {text!r} with {one} "
        f"where the tokenizer.json beside the weights says {other}"
    )
    wanted = "one reading of a text"
    fix = (
        "set tokenizer_class to PreTrainedTokenizerFast in tokenizer_config.json; where that "
        "changes nothing, transformers forces its own class on this model_type"
    )
    return UserError(policy.checkpoint.name, got, wanted, fix)
