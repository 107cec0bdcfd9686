"""Random policies over a handful of tokens, so that every completion can be enumerated."""

import functools

import pytest
import torch
import transformers
from tests.conftest import CONFIGS

from valuegrad.checkpoints.checkpoint import Checkpoint
from valuegrad.model.policy import Policy
from valuegrad.model.precision import use_true_float64


@pytest.fixture(scope="session")
def tiny_policy(tmp_path_factory):
    """Return the policy of an architecture over a few tokens; shared, so tests leave it as is."""

    @functools.cache
    def build(architecture, vocabulary=6):
        config = CONFIGS[architecture](vocabulary)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float64).eval()
        generator = torch.Generator().manual_seed(23)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                norm = parameter.dim() == 1 and name.endswith("weight")
                parameter.copy_(1 + 0.3 * noise if norm else 0.6 * noise)
        use_true_float64(model)
        use_true_float64(model.base_model)
        folder = tmp_path_factory.mktemp("tiny")
        return Policy(model, None, Checkpoint(architecture, folder, architecture, None, None, None))

    return build
