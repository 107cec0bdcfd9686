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
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, AutoTokenizer

from valuegrad.checkpoints.checkpoint import Checkpoint
from valuegrad.checkpoints.files import fetch, read_config, validate
from valuegrad.checkpoints.references import resolve
from valuegrad.errors import UserError
from valuegrad.model.precision import use_true_float64

Site = int | str
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
        return tuple(dict.fromkeys(int(token) for token in found if token is not None))

    @cached_property
    def context(self) -> int:
        """The most tokens a sequence may have."""
        config = self.model.config.get_text_config()
        return int(getattr(config, "max_position_embeddings", 0) or 2**31)


def load_policy(
    checkpoint: Checkpoint | str,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    trust_remote_code: bool = False,
) -> Policy:
    """Load a checkpoint as a policy: safetensors only, no remote code unless asked for.

    A local folder needs no network; a checkpoint on the hub is downloaded where it is not in the
    cache of the hub's client yet.

    With ``dtype="float64"`` every operation is in float64, also those for which transformers asks
    float32; the other dtypes are transformers' own, bit for bit.

    Args:
        checkpoint: a resolved checkpoint, the path of its folder, or ``repo@revision``.
        device: a torch device such as ``"cpu"`` or ``"cuda"``; ``"auto"`` takes CUDA when present.
        dtype: ``"float32"``, ``"float64"``, ``"bfloat16"`` or ``"float16"``.
        trust_remote_code: whether code that the checkpoint brings may run here.

    Returns:
        The policy, in evaluation mode.

    Raises:
        UserError: an unusable folder, device or dtype; a tokenizer that does not fit the
            vocabulary; an output head that is not a plain linear map.
        DownloadError: it is on the hub and could not be downloaded.

    Example:
        ``policy = load_policy("runs/step100", dtype="float64")``
    """
    if isinstance(checkpoint, str):
        checkpoint = resolve([checkpoint])[0]
    if dtype not in DTYPES:
        raise UserError("dtype", repr(dtype), f"one of {', '.join(DTYPES)}", "choose one of those")
    place = _device(device)
    check_code(checkpoint, trust_remote_code)
    checkpoint = fetch(checkpoint)
    validate(checkpoint)
    trusted = {"local_files_only": True, "trust_remote_code": trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(checkpoint.path, **trusted)
        model = AutoModelForCausalLM.from_pretrained(
            checkpoint.path, config=config, dtype=dtype, use_safetensors=True, **trusted
        )
    except (ValueError, KeyError, OSError, RuntimeError, ImportError) as error:
        got = f"a folder that transformers cannot load ({_first_line(error)})"
        wanted = "a causal language model whose weights fit its config.json"
        fix = "check that weights and config.json belong together"
        raise UserError(checkpoint.name, got, wanted, fix) from error
    policy = Policy(model.eval().to(place), _load_tokenizer(checkpoint, trusted), checkpoint)
    if dtype == "float64":
        use_true_float64(policy.model)
    _check_vocabulary(policy)
    _check_head(policy)
    return policy


def check_code(checkpoint: Checkpoint, trust_remote_code: bool) -> None:
    """Refuse a model whose code comes with its weights, before these are downloaded."""
    config = read_config(checkpoint)
    if trust_remote_code or "auto_map" not in config or config.get("model_type") in CONFIG_MAPPING:
        return
    got = f"a model that brings its own code (auto_map in config.json: {config['auto_map']})"
    wanted = "one that transformers knows, or `trust_remote_code`"
    fix = "read that code, then pass `trust_remote_code` if it may run here"
    raise UserError(checkpoint.name, got, wanted, fix)


def logits(policy: Policy, states: Float[Tensor, "*B D"]) -> Float[Tensor, "*B V"]:
    """Next-token logits at given ``"final"`` states, with gradients to the head where enabled."""
    return policy.model.get_output_embeddings()(states)  # type: ignore[no-any-return]


def check_full_precision(policy: Policy) -> None:
    """Refuse to move the parameters of a half-precision policy: short steps would round away."""
    if torch.finfo(policy.head.dtype).bits < 32:
        got = str(policy.head.dtype).removeprefix("torch.")
        raise UserError("dtype", got, "float32 or float64 to take steps in", "use float32")


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        place = torch.device(name)
    except RuntimeError as error:
        raise UserError("device", repr(name), "cpu, cuda or cuda:N", "choose one") from error
    if place.type == "cuda" and not torch.cuda.is_available():
        raise UserError("device", repr(name), "a device that is here", "use cpu: CUDA is not here")
    return place


def _load_tokenizer(checkpoint: Checkpoint, trusted: dict[str, bool]) -> Any:
    try:
        return AutoTokenizer.from_pretrained(checkpoint.path, **trusted)
    except Exception as error:  # the package tokenizers raises nothing narrower
        got = f"a folder without a usable tokenizer ({_first_line(error)})"
        wanted = "the tokenizer that the model was trained with"
        fix = "save it beside the weights with tokenizer.save_pretrained"
        raise UserError(checkpoint.name, got, wanted, fix) from error


def _check_vocabulary(policy: Policy) -> None:
    largest, rows = max(policy.tokenizer.get_vocab().values()), policy.head.shape[0]
    if largest >= rows:
        got = f"a tokenizer with token ids up to {largest} and a model of {rows} tokens"
        wanted = "a tokenizer that fits the model's vocabulary"
        fix = "put the tokenizer that the model was trained with beside its weights"
        raise UserError(policy.checkpoint.name, got, wanted, fix)


def _check_head(policy: Policy) -> None:
    """Scaled or soft-capped logits would break every closed form silently: refuse them here."""
    ids = torch.arange(3, device=policy.device)[None]
    with torch.no_grad():
        expected = policy.model(input_ids=ids, use_cache=False).logits[0, -1]
        states = policy.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        found = logits(policy, states[:, -1])[0]
    scale = 4 * torch.finfo(expected.dtype).eps * max(1.0, expected.abs().max().item())
    if expected.shape != found.shape or (expected - found).abs().max() > 16 * scale:
        got = f"a {type(policy.model).__name__} whose logits are not its output head's"
        wanted = "a model with a separable output head (logits = W h)"
        fix = "use a model without logit scaling or soft-capping"
        raise UserError(policy.checkpoint.name, got, wanted, fix)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
