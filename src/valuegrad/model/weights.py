"""Whether a model's weights are its checkpoint's: what no file fills, transformers draws at random.

Not all that a loader tolerates is harmless, and not all that it reports is harm. Tied heads are
filled by their twin; causal masks and rotary frequencies that old versions saved are formed anew.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch

from valuegrad.checkpoints.checkpoint import Checkpoint
from valuegrad.checkpoints.files import Header
from valuegrad.errors import UserError

_MASK = re.compile(r"(?:^|\.)att(?:entio)?n\.(?:(?:masked_)?bias|causal_mask)$")
_FORMED_ANEW = re.compile(r"(?:^|\.)(?:rotary_emb\.inv_freq|position_ids)$")
_LORA = re.compile(r"\.(?:lora_|base_layer\.|modules_to_save\.)")
_HEAD_OF_A_VALUE = re.compile(r"(?:^|\.)(?:score|v_head|value_head|reward_head|classifier)\.")
_LAYER = re.compile(r"\.(\d+)\.")
_NAMED = 3  # names in a message
_WEIGHTS = ("F64", "F32", "F16", "BF16")  # dtypes of tensors that hold numbers as they are


def check_loaded(
    checkpoint: Checkpoint,
    model: Any,
    info: Mapping[str, Any],
    tensors: Header,
) -> None:
    """Refuse a model that a checkpoint's tensors, name → dtype and shape, do not fill exactly.

    ``info`` is what transformers' loader says of its work.
    """
    missing = sorted(info["missing_keys"])
    own, prefix = model.state_dict(), f"{model.base_model_prefix}."
    # The loader says nothing of masks, whatever their shape.
    silent = {n for n in tensors if _MASK.search(n) and not {n, prefix + n} & own.keys()}
    unused = sorted(
        name
        for name in {*info["unexpected_keys"], *silent}
        if not _FORMED_ANEW.search(name) and not _is_mask(name, tensors.get(name))
    )
    misfits = sorted(
        f"{name} ({_shape(held)} for {_shape(asked)})"
        for name, held, asked in info["mismatched_keys"]
    )
    faults = {"no tensor for": missing, "no use for": unused, "a wrong shape of": misfits}
    if any(faults.values()):
        got = "; ".join(f"{what} {_listed(names)}" for what, names in faults.items() if names)
        wanted = f"a tensor for each weight of a {type(model).__name__}, and no other"
        raise UserError(
            checkpoint.name,
            f"weights that do not fit config.json: {got}",
            wanted,
            _fix(model, missing, unused, tensors),
        )
    ends = (model.get_output_embeddings(), model.get_input_embeddings())
    tied = getattr(model.config.get_text_config(), "tie_word_embeddings", False)
    if tied and model._tied_weights_keys and ends[0].weight is not ends[1].weight:
        got = "an output head that differs from the embedding although config.json ties them"
        fix = "set tie_word_embeddings to false if the head is meant, or take it out of the files"
        raise UserError(checkpoint.name, got, "one of the two", fix)
    taken = {
        n: own.get(n, own.get(prefix + n)) for n, (d, _) in tensors.items() if d not in _WEIGHTS
    }
    if odd := [n for n, into in taken.items() if into is not None and into.is_floating_point()]:
        got = f"weights of dtype {tensors[odd[0]][0]}: {_listed(odd)}"
        wanted = f"weights as they are, in {', '.join(_WEIGHTS)}"
        fix = "dequantise the model, then save it with save_pretrained"
        raise UserError(checkpoint.name, got, wanted, fix)


def check_finite(checkpoint: Checkpoint, model: Any) -> None:
    """Refuse weights that hold NaN or infinity, with the place of the first."""
    for name, weight in model.state_dict().items():
        if not weight.is_floating_point():
            continue
        ends = torch.stack(weight.detach().aminmax())
        if not torch.isfinite(ends).all():
            first = (~torch.isfinite(weight.detach())).nonzero()[0].tolist()
            dtype = str(weight.dtype).removeprefix("torch.")
            got = f"{float(weight.detach()[tuple(first)])} in {name}{first}, read as {dtype}"
            fix = "use a checkpoint from before the run diverged"
            if weight.dtype == torch.float16:
                fix += ", or bfloat16 as `dtype` where float16 is too narrow for the weights"
            raise UserError(checkpoint.name, got, "finite weights", fix)


def _is_mask(name: str, known: tuple[str, tuple[int, ...]] | None) -> bool:
    """Whether a tensor is a causal mask, or what is put in its place, as old versions saved it."""
    shape = known[1] if known else (0,)
    square = len(shape) == 4 and shape[:2] == (1, 1) and shape[2] == shape[3]
    return bool(_MASK.search(name)) and (square or not shape)


def _shape(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(list(names)[:_NAMED])
    return shown + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def _fix(model: Any, missing: list[str], unused: list[str], held: Collection[str]) -> str:
    """What to do, from the likely reason."""
    if any(map(_LORA.search, unused)):
        return "merge the adapter first (peft's merge_and_unload), then save_pretrained"
    if prefix := _prefix(missing, unused):
        return (
            f"the names hold {prefix!r}, which torch.compile or a parallel wrapper puts there: "
            "save the model inside it, or take that out of the names in the files"
        )
    if any(map(_HEAD_OF_A_VALUE.search, unused)):
        return "use the language model: this one gives values or classes instead of tokens"
    head = model.get_output_embeddings()
    if missing and all(model.get_submodule(n.rpartition(".")[0]) is head for n in missing):
        return (
            "save the whole causal language model, not its body; where the head is the embedding, "
            "set tie_word_embeddings in config.json"
        )
    depth = model.config.get_text_config().num_hidden_layers
    layers = {int(found[1]) for name in (*missing, *unused) if (found := _LAYER.search(name))}
    # A layer of which some is there lacks something else.
    whole = not any(found and int(found[1]) in layers for found in map(_LAYER.search, held))
    if layers and not (missing and unused) and (whole or not missing):
        listed = ", ".join(map(str, sorted(layers)))
        what = "lack" if missing else "have more, of"
        return (
            f"config.json asks for {depth} layers and the files {what} layer {listed}: "
            "copy all files of one checkpoint"
        )
    return "check that weights and config.json belong together"


def _prefix(missing: list[str], unused: list[str]) -> str:
    """What every unused name holds more than a missing one; empty where that is not one text."""
    found = set()
    for name in unused:
        words = name.split(".")
        extra = {w for w in words if ".".join(x for x in words if x != w) in set(missing)}
        found |= extra or {""}
    return f"{found.pop()}." if len(found) == 1 and "" not in found else ""
