"""A causal language model as a policy: its blocks, its output head and its stop tokens.

Only this package knows transformers' internals. Sites are theory's: ``"embedding"`` (input of block
0), ``0 … L−1`` (residual stream after that block), ``"final"`` (what the output head reads).

B states · D width · V vocabulary
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from tokenizers import Tokenizer
from torch import Tensor, nn

from valuegrad.checkpoints.checkpoint import Checkpoint
from valuegrad.errors import UserError

Site = int | str
_CONTEXTS = ("n_positions", "max_seq_len", "n_ctx", "seq_length")
DTYPES = ("float32", "float64", "bfloat16", "float16")


@dataclass(frozen=True, eq=False)
class Policy:
    """A loaded model with its tokenizer; made by `load_policy`.

    Attributes:
        model: the transformers model, in evaluation mode.
        tokenizer: its tokenizer.
        checkpoint: where it came from.
    """

    model: Any
    tokenizer: Any
    checkpoint: Checkpoint

    @cached_property
    def blocks(self) -> nn.ModuleList:
        """The decoder blocks in order."""
        depth = self.model.config.get_text_config().num_hidden_layers
        for module in self.model.base_model.modules():
            if isinstance(module, nn.ModuleList) and len(module) == depth:
                return module
        got = f"a {type(self.model).__name__} whose {depth} blocks are in no module list"
        fix = "use a model such as OLMo-2, Pythia, Llama, Qwen or GPT-2"
        raise UserError(self.checkpoint.name, got, "a decoder-only transformer", fix)

    @property
    def sites(self) -> tuple[Site, ...]:
        """Every site, from the input to the output."""
        return ("embedding", *range(len(self.blocks)), "final")

    @property
    def head(self) -> Float[Tensor, "V D"]:
        """The output head W: logits are W h plus `head_bias`."""
        return self.model.get_output_embeddings().weight.detach()  # type: ignore[no-any-return]

    @property
    def embedding(self) -> Float[Tensor, "V D"]:
        """The embedding matrix E, a row for each token that the head scores."""
        table = self.model.get_input_embeddings().weight.detach()
        return table[: self.head.shape[0]]  # type: ignore[no-any-return]

    @property
    def head_bias(self) -> Float[Tensor, " V"] | None:
        """The bias of the output head, None where it has none."""
        bias = getattr(self.model.get_output_embeddings(), "bias", None)
        return None if bias is None else bias.detach()

    @property
    def device(self) -> torch.device:
        """Where the output head lies."""
        return self.head.device

    @property
    def stop_tokens(self) -> tuple[int, ...]:
        """The tokens that end a text: those of the generation settings, and the tokenizer's."""
        known = self.model.generation_config.eos_token_id
        listed = known if isinstance(known, list) else [known]
        found = (*listed, self.tokenizer.eos_token_id)
        rows = self.head.shape[0]
        # An id that no token has, such as −1, is never drawn.
        known = (int(token) for token in found if token is not None and 0 <= int(token) < rows)
        return tuple(dict.fromkeys(known))

    @cached_property
    def token_ids(self) -> frozenset[int]:
        """The ids that stand for a text; others only pad the output head, or fill gaps."""
        return frozenset(self.tokenizer.get_vocab().values())

    @cached_property
    def saved_tokenizer(self) -> Tokenizer | None:
        """The tokenizer.json beside the weights as it stands, None where there is none."""
        path = self.checkpoint.path and self.checkpoint.path / "tokenizer.json"
        if not path or not path.is_file():
            return None
        found = Tokenizer.from_file(str(path))
        # transformers sets both anew at every call.
        found.no_truncation()
        found.no_padding()
        return found

    @cached_property
    def context(self) -> int:
        """The most tokens a sequence may have."""
        config = self.model.config.get_text_config()
        sizes = (getattr(config, name, None) for name in ("max_position_embeddings", *_CONTEXTS))
        return int(next((size for size in sizes if size), 2**31))

    @property
    def rope_switch(self) -> int | None:
        """The length from which on a sequence has other rotary angles at all of its positions."""
        config = self.model.config.get_text_config()
        rope = getattr(config, "rope_parameters", None) or {}
        known = (rope, *(part for part in rope.values() if isinstance(part, dict)))
        name = "original_max_position_embeddings"
        long = (part for part in known if part.get("rope_type") == "longrope")
        return next((part.get(name) or getattr(config, name, None) for part in long), None)


def logits(policy: Policy, states: Float[Tensor, "*B D"]) -> Float[Tensor, "*B V"]:
    """Next-token logits at given ``"final"`` states, with gradients to the head where enabled."""
    return policy.model.get_output_embeddings()(states)  # type: ignore[no-any-return]


def check_full_precision(policy: Policy) -> None:
    """Refuse to move the parameters of a half-precision policy: short steps would round away."""
    if torch.finfo(policy.head.dtype).bits < 32:
        got = str(policy.head.dtype).removeprefix("torch.")
        raise UserError("dtype", got, "float32 or float64 to take steps in", "use float32")
