"""A linear-quadratic control problem with all in closed form (Prop. 1, Eqs. 6, 7, 9).

a_t = K_t s_t + ξ_t, s_{t+1} = A s_t + B a_t, r = −½ (sᵀ Q s + aᵀ R a), ξ_t ~ N(0, σ² I): so
V_t(s) = −½ sᵀ P_t s − c_t with P_t from a recursion, and G_t(s) = −P_t s.

T steps · S state width · U action width · N noise sequences
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

# Exact to degree 5, and the highest is 4: a return (2) times a score (2), or a return squared.
QUADRATURE_POINTS = 3


@dataclass(frozen=True, eq=False)
class ControlProblem:
    """A linear-quadratic control problem with a linear Gaussian policy.

    Attributes:
        dynamics, actuation: A and B.
        state_cost, action_cost: Q and R, symmetric and positive definite.
        gains: K_t of each step; with B what Eq. 7 differentiates by.
        start, noise, discount: s_1, the σ of the policy's noise, and γ.

    Example:
        >>> random_problem(horizon=4).horizon
        4
    """

    dynamics: Float[Tensor, "S S"]
    actuation: Float[Tensor, "S U"]
    state_cost: Float[Tensor, "S S"]
    action_cost: Float[Tensor, "U U"]
    gains: Float[Tensor, "T U S"]
    start: Float[Tensor, " S"]
    noise: float = 0.5
    discount: float = 0.9

    @property
    def horizon(self) -> int:
        """T."""
        return len(self.gains)

    @property
    def letters(self) -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
        """A, B, Q, R and γ, as the equations have them."""
        return self.dynamics, self.actuation, self.state_cost, self.action_cost, self.discount


@dataclass(frozen=True, eq=False)
class Rollouts:
    """Trajectories of given noise; made by `rollouts`."""

    states: Float[Tensor, "N T S"]
    actions: Float[Tensor, "N T U"]
    returns: Float[Tensor, " N"]


def random_problem(seed: int = 0, *, horizon: int = 3) -> ControlProblem:
    """A problem with random matrices of widths S = 3 and U = 2, in float64."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def cost(width: int) -> Tensor:
        root = draw(width, width)
        return root @ root.mT / width + 0.5 * torch.eye(width, dtype=torch.float64)

    dynamics, actuation = draw(3, 3) / 3**0.5, draw(3, 2)
    costs, gains = (cost(3), cost(2)), 0.4 * draw(horizon, 2, 3)
    return ControlProblem(dynamics, actuation, *costs, gains, draw(3))


def rollouts(
    problem: ControlProblem,
    noise: Float[Tensor, "N T U"],
    shift: Float[Tensor, "N T S"] | None = None,
) -> Rollouts:
    """The trajectories under given noise; `shift` is added to each state as it is reached."""
    A, B, Q, R, discount = problem.letters
    state = problem.start.expand(len(noise), -1)
    states, actions, total = [], [], state.new_zeros(len(noise))
    for t, K in enumerate(problem.gains):
        state = state if shift is None else state + shift[:, t]
        action = state @ K.mT + noise[:, t]
        total = total - discount**t * (_form(state, Q) + _form(action, R)) / 2
        states.append(state)
        actions.append(action)
        state = state @ A.mT + action @ B.mT
    return Rollouts(torch.stack(states, 1), torch.stack(actions, 1), total)


def control_costates(problem: ControlProblem, followed: Rollouts) -> Float[Tensor, "N T S"]:
    """λ_t = Dr + γ (Df)ᵀ λ_{t+1} along trajectories, the adjoint recursion of Prop. 1 (Eq. 6).

    Args:
        problem: the problem.
        followed: its trajectories.

    Returns:
        ∂R_t/∂s_t (N, T, S), the return of the steps from t on by their first state.

    Example:
        >>> problem = random_problem()
        >>> control_costates(problem, rollouts(problem, noise_grid(problem)[0])).shape
        torch.Size([729, 3, 3])
    """
    A, B, Q, R, discount = problem.letters
    adjoint = torch.zeros_like(followed.states[:, 0])
    found: list[Tensor] = []
    for t, K in reversed([*enumerate(problem.gains)]):
        own = -followed.states[:, t] @ Q - followed.actions[:, t] @ R @ K
        adjoint = own + discount * adjoint @ (A + B @ K)
        found.insert(0, adjoint)
    return torch.stack(found, 1)


def parameter_gradient(
    problem: ControlProblem, followed: Rollouts
) -> tuple[Float[Tensor, "N T U S"], Float[Tensor, "N S U"]]:
    """∂R_1/∂K of the policy and ∂R_1/∂B of the dynamics from costates, Eq. 7 before its mean.

    Args:
        problem: the problem.
        followed: its trajectories.

    Returns:
        Both gradients of each trajectory, (N, T, U, S) and (N, S, U).

    Example:
        >>> problem = random_problem()
        >>> by_gains, _ = parameter_gradient(problem, rollouts(problem, noise_grid(problem)[0]))
        >>> by_gains.shape
        torch.Size([729, 3, 2, 3])
    """
    _, B, _, R, discount = problem.letters
    carried = control_costates(problem, followed)
    after = torch.cat((carried[:, 1:], torch.zeros_like(carried[:, :1])), 1)
    weight = discount ** torch.arange(problem.horizon, dtype=carried.dtype)
    by_action = -followed.actions @ R + discount * (after @ B)
    by_gains = torch.einsum("t,ntu,nts->ntus", weight, by_action, followed.states)
    by_dynamics = discount * torch.einsum("t,nts,ntu->nsu", weight, after, followed.actions)
    return by_gains, by_dynamics


def value_matrices(problem: ControlProblem) -> Float[Tensor, "T S S"]:
    """P_t of V_t(s) = −½ sᵀ P_t s − c_t, so that G_t(s) = −P_t s: P_t = Q + KᵀRK + γ MᵀP_{t+1}M.

    Args:
        problem: the problem, with M = A + B K_t.

    Returns:
        The matrix of each step (T, S, S); P_{T+1} = 0.

    Example:
        >>> problem = random_problem()
        >>> (-value_matrices(problem)[0] @ problem.start).shape
        torch.Size([3])
    """
    A, B, Q, R, discount = problem.letters
    P = torch.zeros_like(Q)
    found: list[Tensor] = []
    for K in problem.gains.flip(0):
        M = A + B @ K
        P = Q + K.mT @ R @ K + discount * M.mT @ P @ M
        found.insert(0, P)
    return torch.stack(found)


def expected_return(problem: ControlProblem) -> Float[Tensor, ""]:
    """J = V_1(s_1), the expected return in closed form; differentiable in the problem."""
    _, B, _, R, discount = problem.letters
    first, *later = value_matrices(problem)
    total = -_form(problem.start, first) / 2
    for t, P in enumerate((*later, torch.zeros_like(first))):
        # What the noise of step t costs by itself and through the state that it moves.
        cost = R + discount * (B.mT @ P @ B)
        total = total - discount**t * problem.noise**2 * cost.trace() / 2
    return total


def with_optimal_gains(problem: ControlProblem) -> ControlProblem:
    """The problem under the best policy, K_t = −(R + γ BᵀPB)⁻¹ γ BᵀPA (Riccati)."""
    A, B, Q, R, discount = problem.letters
    P = torch.zeros_like(Q)
    gains: list[Tensor] = []
    for _ in problem.gains:
        pushed = discount * B.mT @ P
        K = -torch.linalg.solve(R + pushed @ B, pushed @ A)
        # Riccati's form, which is that of `value_matrices` only at the best gain.
        P = Q + discount * A.mT @ P @ (A + B @ K)
        gains.insert(0, K)
    return replace(problem, gains=torch.stack(gains))


def noise_grid(problem: ControlProblem) -> tuple[Float[Tensor, "N T U"], Float[Tensor, " N"]]:
    """Gauss–Hermite nodes and weights over the noise of a whole trajectory, exact to degree 5."""
    steps, actions, _ = problem.gains.shape
    nodes, weights = np.polynomial.hermite_e.hermegauss(QUADRATURE_POINTS)
    node, weight = torch.from_numpy(nodes), torch.from_numpy(weights / weights.sum())
    which = torch.cartesian_prod(*[torch.arange(QUADRATURE_POINTS)] * steps * actions)
    return problem.noise * node[which].view(-1, steps, actions), weight[which].prod(1)


def _form(vectors: Float[Tensor, "*N S"], matrix: Float[Tensor, "S S"]) -> Float[Tensor, "*N"]:
    return torch.einsum("...i,ij,...j->...", vectors, matrix, vectors)
