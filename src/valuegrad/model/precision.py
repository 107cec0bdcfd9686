"""True float64 arithmetic in a transformers model.

The RMSNorm of OLMo-2, Llama and Qwen, eager attention's softmax and the rotary angles ask for
float32 by name, whatever the dtype of the model. In float64 that rounds every layer to about 1e-7,
which drowns central differences and hides errors in identities. Here those requests are answered
with float64; in every other dtype the model is left alone.
"""

from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode


class Float64Requests(TorchFunctionMode):
    """Inside this context a request for float32 gets float64."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.float:
            return args[0].double()
        kwargs = {k: _widened(v) for k, v in (kwargs or {}).items()}
        return func(*map(_widened, args), **kwargs)


def use_true_float64(model: nn.Module) -> None:
    """Make every forward pass of a float64 model, and of its copies, run under these requests."""
    # The base model is called by itself as well.
    for part in {model, getattr(model, "base_model", model)}:
        part.register_forward_pre_hook(_enter)
        part.register_forward_hook(_leave, always_call=True)


# Functions and a stack at module level: hooks then survive copy.deepcopy of the model.
_active: list[ExitStack] = []


def _enter(module: nn.Module, args: Any) -> None:
    _active.append(ExitStack())
    _active[-1].enter_context(Float64Requests())


def _leave(module: nn.Module, args: Any, output: Any) -> None:
    _active.pop().close()


def _widened(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value
