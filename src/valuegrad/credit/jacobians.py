"""Jacobians between hidden vectors as linear operators, never formed (Eqs. 19, 20; theory §4).

J_sample = (∂h_{t+1}/∂e_t) Eᵀ (1/τ)(diag p − ppᵀ) W leads from the hidden vector that scores a token
through its soft sample to the next one. A product with a Jacobian is the derivative of the
vector-Jacobian product in its cotangent, so no forward mode is needed.

m vectors · D width · K width of what is reached · V vocabulary
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse.linalg import ArpackError, LinearOperator, svds
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from valuegrad.errors import RunError
from valuegrad.model.cache import Cache, decode_embedding
from valuegrad.model.policy import Policy
from valuegrad.model.sites import without_parameter_gradients

Product = Callable[[Float[Tensor, "m _"]], Float[Tensor, "m _"]]
# Lanczos vectors: more than there are singular values close to the largest, as a rule.
BASIS = 8
# Relative error of ‖J‖², a guarantee: as a rule it is of the order of its square.
TOLERANCE = 1e-4
# Up to this width the matrix is formed; beyond it, so many columns at a time.
DENSE, COLUMNS = 20, 64


def operator(
    shape: tuple[int, int], apply: Product, adjoint: Product, like: Tensor
) -> LinearOperator:
    """An operator of products x ↦ J x and y ↦ Jᵀ y with rows, in the dtype and place of `like`."""

    def with_columns(product: Product) -> Callable[[np.ndarray], np.ndarray]:
        def run(columns: np.ndarray) -> np.ndarray:
            rows = np.ascontiguousarray(columns.reshape(len(columns), -1).T)
            return product(torch.from_numpy(rows).to(like)).double().cpu().numpy().T

        return run

    forward, back = with_columns(apply), with_columns(adjoint)
    return LinearOperator(shape, forward, back, forward, np.float64, back)


def of_function(
    function: Callable[[Float[Tensor, "m D"]], Float[Tensor, "m K"]], point: Float[Tensor, " D"]
) -> LinearOperator:
    """The Jacobian at a point of a function of rows, twice differentiable; it runs once, here."""
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        leaf = point.detach()[None].clone().requires_grad_()
        value = function(leaf)
        cotangent = torch.zeros_like(value, requires_grad=True)
        (pulled,) = torch.autograd.grad(value, leaf, cotangent, create_graph=True)

    def derivative(output: Tensor, by: Tensor) -> Product:
        def product(rows: Tensor) -> Tensor:
            several = len(rows) > 1
            given = rows[:, None] if several else rows
            (found,) = torch.autograd.grad(
                output, by, given, retain_graph=True, is_grads_batched=several
            )
            return found.reshape(len(rows), -1)

        return product

    shape = value.shape[1], len(point)
    return operator(shape, derivative(pulled, cotangent), derivative(value, leaf), point)


def step_jacobian(policy: Policy, cache: Cache, token: int) -> LinearOperator:
    """∂h_{t+1}^final/∂e_t: from a token's embedding to the state at ``"final"`` that reads it.

    Args:
        policy: the policy.
        cache: of everything before the token.
        token: o_t, at whose embedding the derivative is taken.

    Returns:
        SciPy's operator, (D, D) in state per state: ``J @ x``, ``J.H @ y``.

    Example:
        ``spectral_norm(step_jacobian(policy, cache, 17))``
    """
    with without_parameter_gradients(policy.model):
        return of_function(lambda e: decode_embedding(policy, cache, e)[1], policy.embedding[token])


def sampling_jacobian(
    policy: Policy, step: LinearOperator, p: Float[Tensor, " V"], temperature: float
) -> LinearOperator:
    """J_sample: the path from h_t to h_{t+1} that sampling cuts (Eq. 20).

    Args:
        policy: the policy.
        step: ∂h_{t+1}/∂e_t, from `step_jacobian`.
        p: softmax(z_t / τ).
        temperature: τ.

    Returns:
        The operator (D, D), state per state; J_sampleᵀ y is the credit that sampling withholds.

    Example:
        ``spectral_norm(sampling_jacobian(policy, step, p, 1.0))``
    """
    head, embedding = policy.head, policy.embedding
    weight, total = (p.detach() / temperature).to(head), p.detach().to(head)

    likeliest = int(p.argmax())

    def sample(rows: Float[Tensor, "m V"]) -> Float[Tensor, "m V"]:
        # (diag p − ppᵀ) z / τ; symmetric, so it serves both directions. It does not see a constant:
        # without the likeliest token's entry a policy that is nearly certain keeps its digits.
        rows = rows - rows[:, likeliest : likeliest + 1]
        return weight * (rows - (rows @ total)[:, None])

    return step @ operator(
        (embedding.shape[1], head.shape[1]),
        lambda x: sample(x @ head.mT) @ embedding,
        lambda y: sample(y @ embedding.mT) @ head,
        head,
    )


def spectral_norm(jacobian: LinearOperator, *, seed: int = 0) -> float:
    """‖J‖₂ by ARPACK's Lanczos iteration, matrix-free.

    Args:
        jacobian: the operator.
        seed: of the vector that iteration starts from.

    Returns:
        The largest singular value, right to 1e-4 of it.

    Raises:
        RunError: iteration did not converge.

    Example:
        >>> from scipy.sparse.linalg import aslinearoperator
        >>> round(spectral_norm(aslinearoperator(np.diag(np.arange(50.0)))), 9)
        49.0
    """
    if min(jacobian.shape) <= DENSE:
        return float(np.linalg.norm(_matrix(jacobian), 2))
    start = np.random.default_rng(seed).standard_normal(min(jacobian.shape))
    tall = jacobian if jacobian.shape[0] >= jacobian.shape[1] else jacobian.H
    if not tall.matvec(start).any():
        return 0.0
    try:
        _, values, _ = svds(jacobian, 1, ncv=BASIS, tol=TOLERANCE, v0=start, maxiter=1000)
    except ArpackError as error:
        fix = "load the policy with dtype float64"
        raise RunError(f"a spectral norm did not converge ({error}); {fix}") from error
    return float(values[0])


def effective_rank(jacobian: LinearOperator, *, norm: float | None = None) -> float:
    """The stable rank ‖J‖_F² / ‖J‖₂², the number of directions that J really carries.

    Args:
        jacobian: the operator.
        norm: its spectral norm where that is known.

    Returns:
        At least 1 and at most the rank; 0 for J = 0.

    Example:
        >>> from scipy.sparse.linalg import aslinearoperator
        >>> round(effective_rank(aslinearoperator(np.diag([3.0, 3.0, 3.0]))), 9)
        3.0
    """
    norm = spectral_norm(jacobian) if norm is None else norm
    return float(np.linalg.norm(_matrix(jacobian)) / norm) ** 2 if norm else 0.0


def _matrix(jacobian: LinearOperator) -> np.ndarray:
    width = jacobian.shape[1]
    parts = np.split(np.eye(width), range(COLUMNS, width, COLUMNS), axis=1)
    return np.concatenate([jacobian @ part for part in parts], 1)
