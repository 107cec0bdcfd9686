"""Jacobians between hidden vectors as linear operators, never formed (theory §4, Eqs. 19, 20).

The sampling path is J_sample = (∂h_{t+1}/∂e_t) Eᵀ (1/τ)(diag p − ppᵀ) W: from the hidden vector
that scores a token, through its soft sample, to the next hidden vector. A product with J is a
derivative of the vector-Jacobian product in its cotangent, so neither needs forward mode. They take
a block of vectors at once: reading the weights is what they cost.

m vectors of a block · D width · K width of what is reached · V vocabulary
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator, lobpcg
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from valuegrad.errors import RunError
from valuegrad.model.cache import Cache, advance_embedded
from valuegrad.model.policy import Policy
from valuegrad.model.sites import without_parameter_gradients

Product = Callable[[Float[Tensor, "m _"]], Float[Tensor, "m _"]]
BLOCK = 4
# ‖JᵀJv − λv‖ / λ at which iteration stops; the error of λ is of the order of its square.
RESIDUAL = 1e-4
MOST_ITERATIONS = 50
RESTARTS = 8


@dataclass(frozen=True)
class Jacobian:
    """A linear map of vectors, by its products with blocks of them as rows.

    Attributes:
        width: D, of the vectors that it maps.
        apply: x ↦ J x.
        adjoint: y ↦ Jᵀ y.
        dtype: in which the products are taken.
        device: where.
    """

    width: int
    apply: Product
    adjoint: Product
    dtype: torch.dtype
    device: torch.device

    def then(self, apply: Product, adjoint: Product) -> Jacobian:
        """This map after another: J ∘ A, with A given by its products."""
        return Jacobian(
            self.width,
            lambda x: self.apply(apply(x)),
            lambda y: adjoint(self.adjoint(y)),
            self.dtype,
            self.device,
        )


def of_function(
    function: Callable[[Float[Tensor, "m D"]], Float[Tensor, "m K"]],
    point: Float[Tensor, " D"],
    block: int = BLOCK,
) -> Jacobian:
    """The Jacobian of a function of vectors at a point.

    Args:
        function: applied to each row by itself, differentiable twice.
        point: where.
        block: rows of a product; fewer are padded, more are cut into blocks.

    Returns:
        The operator. The function runs once, here.

    Example:
        >>> jacobian = of_function(lambda x: x**2, torch.tensor([1.0, 3.0]))
        >>> jacobian.apply(torch.tensor([[1.0, 1.0]]))
        tensor([[2., 6.]])
    """
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        leaf = point.detach().expand(block, -1).clone().requires_grad_()
        value = function(leaf)
        cotangent = torch.zeros_like(value, requires_grad=True)
        (pulled,) = torch.autograd.grad(value, leaf, cotangent, create_graph=True)

    def in_blocks(product: Product) -> Product:
        def run(rows: Tensor) -> Tensor:
            parts = []
            for start in range(0, len(rows), block):
                part = rows[start : start + block]
                padding = part.new_zeros(block - len(part), part.shape[1])
                parts.append(product(torch.cat((part, padding)))[: len(part)])
            return torch.cat(parts)

        return run

    def adjoint(rows: Tensor) -> Tensor:
        return torch.autograd.grad(value, leaf, rows, retain_graph=True)[0]

    def apply(rows: Tensor) -> Tensor:
        return torch.autograd.grad(pulled, cotangent, rows, retain_graph=True)[0]

    return Jacobian(len(point), in_blocks(apply), in_blocks(adjoint), point.dtype, point.device)


def step_jacobian(policy: Policy, cache: Cache, token: int) -> Jacobian:
    """∂h_{t+1}^final/∂e_t: from a token's embedding to the state at ``"final"`` that reads it.

    Args:
        policy: the policy.
        cache: of everything before the token.
        token: o_t, at whose embedding the derivative is taken.

    Returns:
        The operator.

    Example:
        ``spectral_norm(step_jacobian(policy, cache, 17))``
    """
    embedding = policy.model.get_input_embeddings().weight[token].detach()
    with without_parameter_gradients(policy.model):
        return of_function(lambda e: advance_embedded(policy, cache, e)[1], embedding)


def sampling_jacobian(
    policy: Policy, step: Jacobian, p: Float[Tensor, " V"], temperature: float
) -> Jacobian:
    """J_sample: the path from h_t to h_{t+1} that sampling cuts.

    Args:
        policy: the policy.
        step: ∂h_{t+1}/∂e_t, from `step_jacobian`.
        p: softmax(z_t / τ).
        temperature: τ.

    Returns:
        The operator; J_sampleᵀ y is the credit that sampling withholds from h_t.

    Example:
        ``spectral_norm(sampling_jacobian(policy, step, p, 1.0))``
    """
    head = policy.head
    embedding = policy.model.get_input_embeddings().weight.detach()[: head.shape[0]]
    weight = (p.detach() / temperature).to(head.dtype)
    total = p.detach().to(head.dtype)

    def sample(rows: Float[Tensor, "m V"]) -> Float[Tensor, "m V"]:
        # (diag p − ppᵀ) z / τ; symmetric, so it serves both directions.
        return weight * (rows - (rows @ total)[:, None])

    return step.then(
        lambda x: sample(x @ head.mT) @ embedding, lambda y: sample(y @ embedding.mT) @ head
    )


def spectral_norm(jacobian: Jacobian, *, seed: int = 0) -> float:
    """‖J‖₂ by LOBPCG (Knyazev 2001) on JᵀJ, matrix-free.

    Args:
        jacobian: the operator.
        seed: of the block that iteration starts from.

    Returns:
        The largest singular value.

    Raises:
        RunError: iteration did not converge.

    Example:
        >>> jacobian = of_function(lambda x: x**2, torch.tensor([1.0, 3.0]).double())
        >>> round(spectral_norm(jacobian), 9)
        6.0
    """
    if jacobian.width <= 5 * BLOCK:
        return float(torch.linalg.matrix_norm(_columns(jacobian), 2))

    def gram(block: np.ndarray) -> np.ndarray:
        rows = torch.from_numpy(np.ascontiguousarray(block.T)).to(jacobian.device, jacobian.dtype)
        return jacobian.adjoint(jacobian.apply(rows)).double().cpu().numpy().T

    width = jacobian.width
    operator = LinearOperator((width, width), matvec=gram, matmat=gram, dtype=np.float64)
    # One product turns the start towards the answer and gives the scale of the tolerance: a unit
    # vector's share of a Gaussian block of four is about 2.
    start, triangle = np.linalg.qr(
        gram(np.random.default_rng(seed).standard_normal((width, BLOCK)))
    )
    scale = float(np.linalg.norm(triangle, 2)) / 2
    if not scale:
        return 0.0
    for attempt in range(RESTARTS):
        with warnings.catch_warnings():
            # It warns of what the residual below decides.
            warnings.simplefilter("ignore", UserWarning)
            values, vectors, history = lobpcg(
                operator,
                start,
                tol=RESIDUAL * scale,
                maxiter=MOST_ITERATIONS,
                largest=True,
                retResidualNormsHistory=True,
            )
        best = int(values.argmax())
        value, residual = float(values[best]), float(np.ravel(history[-1])[best])
        if residual <= 10 * RESIDUAL * abs(value):
            break
        scale = abs(value)
        # Its basis can lose rank, and then it stalls: from the same block it starts with a new one.
        fresh = np.random.default_rng((seed, attempt)).standard_normal(vectors.shape)
        start, _ = np.linalg.qr(vectors + 1e-3 / math.sqrt(width) * fresh)
    else:
        raise RunError(
            f"a spectral norm did not converge in {RESTARTS * MOST_ITERATIONS} iterations "
            f"(residual {residual / abs(value):.1e}); load the policy with dtype float64"
        )
    return math.sqrt(value)


def frobenius_norm(jacobian: Jacobian) -> float:
    """‖J‖_F, one product for each dimension, a block at a time.

    Args:
        jacobian: the operator.

    Returns:
        The norm.

    Example:
        >>> frobenius_norm(of_function(lambda x: x**2, torch.tensor([1.5, 2.0])))
        5.0
    """
    return float(_columns(jacobian).norm())


def effective_rank(jacobian: Jacobian, *, norm: float | None = None) -> float:
    """The stable rank ‖J‖_F² / ‖J‖₂², the number of directions that J really carries.

    Args:
        jacobian: the operator.
        norm: its spectral norm where that is known.

    Returns:
        At least 1 and at most the rank; 0 for J = 0.

    Example:
        >>> round(effective_rank(of_function(lambda x: x**2, torch.tensor([1.0, 1.0]))), 6)
        2.0
    """
    norm = spectral_norm(jacobian) if norm is None else norm
    return (frobenius_norm(jacobian) / norm) ** 2 if norm else 0.0


def _columns(jacobian: Jacobian) -> Float[Tensor, "D K"]:
    unit = torch.eye(jacobian.width, dtype=jacobian.dtype, device=jacobian.device)
    return jacobian.apply(unit)
