"""From a checkpoint to a policy: its files, its weights and its tokenizer, checked one by one."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

from valuegrad.checkpoints.checkpoint import Checkpoint
from valuegrad.checkpoints.files import fetch, read_config, validate
from valuegrad.checkpoints.references import resolve
from valuegrad.errors import UserError, ValuegradError, first_line
from valuegrad.model.checks import check_assumptions
from valuegrad.model.policy import DTYPES, Policy
from valuegrad.model.precision import use_true_float64
from valuegrad.model.tokens import check_tokenizer, load_tokenizer
from valuegrad.model.weights import check_finite, check_loaded


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
        UserError: an unusable folder, device or dtype; weights that do not fill the model exactly
            or are not finite; a tokenizer that does not fit the vocabulary, or reads otherwise
            than its tokenizer.json; a model that is not causal, or whose output head is not a
            plain linear map.
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
    held = {name: x for header in validate(checkpoint).values() for name, x in header.items()}
    trusted = {"local_files_only": True, "trust_remote_code": trust_remote_code}
    # What the loader warns of is said below, by name and with the likely reason.
    with _explained(checkpoint, "load"), quiet("transformers"):
        config = AutoConfig.from_pretrained(checkpoint.path, **trusted)
        model, info = AutoModelForCausalLM.from_pretrained(
            checkpoint.path,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            # The kernels for experts know no float64.
            **({"experts_implementation": "eager"} if dtype == "float64" else {}),
            **trusted,
        )
        check_loaded(checkpoint, model, info, held)
    check_finite(checkpoint, model)
    model.config.return_dict = True  # a file may say otherwise
    text = model.config.get_text_config()
    if hasattr(text, "output_router_logits"):
        # Their loss is no part of any objective here, and fails where a cache is in use.
        text.output_router_logits = False
    policy = Policy(model.eval().to(place), load_tokenizer(checkpoint, trusted), checkpoint)
    if dtype == "float64":
        use_true_float64(policy.model)
    check_tokenizer(policy)
    with _explained(checkpoint, "run on tokens alone"):
        check_assumptions(policy)
    return policy


@contextmanager
def quiet(*names: str) -> Iterator[None]:
    """While open, loggers keep their warnings to themselves."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _explained(checkpoint: Checkpoint, what: str) -> Iterator[None]:
    """Make one message of whatever an architecture raises."""
    try:
        yield
    except (ValuegradError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        got = f"a folder that transformers cannot {what} ({first_line(error)})"
        wanted = "a causal language model whose weights fit its config.json"
        fix = "check that weights and config.json belong together, and with this transformers"
        raise UserError(checkpoint.name, got, wanted, fix) from error


def check_code(checkpoint: Checkpoint, trust_remote_code: bool) -> None:
    """Refuse a model whose code comes with its weights, before these are downloaded."""
    config = read_config(checkpoint)
    if trust_remote_code or "auto_map" not in config or config.get("model_type") in CONFIG_MAPPING:
        return
    got = f"a model that brings its own code (auto_map in config.json: {config['auto_map']})"
    wanted = "one that transformers knows, or `trust_remote_code`"
    fix = "read that code, then pass `trust_remote_code` if it may run here"
    raise UserError(checkpoint.name, got, wanted, fix)


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
