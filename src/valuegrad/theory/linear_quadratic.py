"""A control problem with all in closed form: linear dynamics, quadratic reward, Gaussian noise.

    a_t = K_t s_t + ξ_t,  s_{t+1} = A s_t + B a_t,  r = −½ (sᵀ Q s + aᵀ R a),  ξ_t ~ N(0, σ² I)

so that V_t(s) = −½ sᵀ P_t s − c_t with P_t from a recursion, and G_t(s) = −P_t s. Costates follow
Eq. 6, the parameter gradient Eq. 7. An expectation of a polynomial in the noise up to degree 5 in
each coordinate is exact on a grid of three Gauss–Hermite points a coordinate.

T steps · S state width · U action width · N noise sequences
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

# Highest degree of what is averaged: a return (2) times a score (2), or a return squared.
QUADRATURE_POINTS = 3


@dataclass(frozen=True, eq=False)
class ControlProblem:
    """A linear-quadratic control problem with a linear Gaussian policy.

    Attributes:
        dynamics: A.
        actuation: B.
        state_cost: Q, symmetric and positive definite.
        action_cost: R, likewise.
        gains: K_t of each step; with B what Eq. 7 differentiates by.
        start: s_1.
        noise: σ of the policy's noise.
        discount: γ.
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


@dataclass(frozen=True, eq=False)
class Rollouts:
    """Trajectories of given noise; made by `rollouts`."""

    states: Float[Tensor, "N T S"]
    actions: Float[Tensor, "N T U"]
    returns: Float[Tensor, " N"]


def random_problem(
    seed: int = 0, *, states: int = 3, actions: int = 2, horizon: int = 3
) -> ControlProblem:
    """A problem with random matrices, in float64.

    Args:
        seed: of the matrices.
        states: width of a state.
        actions: width of an action.
        horizon: number of steps T.

    Returns:
        The problem.

    Example:
        >>> random_problem(horizon=4).horizon
        4
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def cost(width: int) -> Tensor:
        root = draw(width, width)
        return root @ root.mT / width + 0.5 * torch.eye(width, dtype=torch.float64)

    return ControlProblem(
        draw(states, states) / states**0.5,
        draw(states, actions),
        cost(states),
        cost(actions),
        0.4 * draw(horizon, actions, states),
        draw(states),
    )


def rollouts(
    problem: ControlProblem,
    noise: Float[Tensor, "N T U"],
    shift: Float[Tensor, "N T S"] | None = None,
) -> Rollouts:
    """Follow the policy under given noise (Def. 1); differentiable in all that the problem holds.

    Args:
        problem: the problem.
        noise: ξ of each trajectory.
        shift: added to each state as it is reached, to differentiate by; none by default.

    Returns:
        The trajectories.

    Example:
        >>> rollouts(random_problem(), torch.zeros(5, 3, 2).double()).returns.shape
        torch.Size([5])
    """
    state = problem.start.expand(len(noise), -1)
    states, actions, total = [], [], state.new_zeros(len(noise))
    for t, gain in enumerate(problem.gains):
        state = state if shift is None else state + shift[:, t]
        action = state @ gain.mT + noise[:, t]
        cost = _form(state, problem.state_cost) + _form(action, problem.action_cost)
        total = total - problem.discount**t * cost / 2
        states.append(state)
        actions.append(action)
        state = state @ problem.dynamics.mT + action @ problem.actuation.mT
    return Rollouts(torch.stack(states, 1), torch.stack(actions, 1), total)


def control_costates(problem: ControlProblem, followed: Rollouts) -> Float[Tensor, "N T S"]:
    """λ_t = Dr + γ (Df)ᵀ λ_{t+1} along trajectories, the adjoint recursion of Prop. 1 (Eq. 6).

    Args:
        problem: the problem.
        followed: its trajectories.

    Returns:
        ∂R_t/∂s_t, the return of the steps from t on by their first state.

    Example:
        ``control_costates(problem, rollouts(problem, noise))[:, 0]``
    """
    adjoint = torch.zeros_like(followed.states[:, 0])
    found: list[Tensor] = []
    for t in range(problem.horizon - 1, -1, -1):
        gain = problem.gains[t]
        by_state = -followed.states[:, t] @ problem.state_cost
        by_action = -followed.actions[:, t] @ problem.action_cost
        total = problem.dynamics + problem.actuation @ gain
        adjoint = by_state + by_action @ gain + problem.discount * adjoint @ total
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
        Both gradients of each trajectory.

    Example:
        ``by_gains, by_actuation = parameter_gradient(problem, rollouts(problem, noise))``
    """
    carried = control_costates(problem, followed)
    after = torch.cat((carried[:, 1:], torch.zeros_like(carried[:, :1])), 1)
    weight = problem.discount ** torch.arange(problem.horizon, dtype=carried.dtype)
    by_action = -followed.actions @ problem.action_cost + problem.discount * (
        after @ problem.actuation
    )
    by_gains = torch.einsum("t,ntu,nts->ntus", weight, by_action, followed.states)
    by_dynamics = problem.discount * torch.einsum("t,nts,ntu->nsu", weight, after, followed.actions)
    return by_gains, by_dynamics


def value_matrices(problem: ControlProblem) -> Float[Tensor, "T S S"]:
    """P_t of V_t(s) = −½ sᵀ P_t s − c_t, so that G_t(s) = −P_t s: P_t = Q + KᵀRK + γ MᵀP_{t+1}M.

    Args:
        problem: the problem, with M = A + B K_t.

    Returns:
        The matrix of each step; P_{T+1} = 0.

    Example:
        ``-value_matrices(problem)[0] @ problem.start``
    """
    reached = torch.zeros_like(problem.state_cost)
    found: list[Tensor] = []
    for gain in problem.gains.flip(0):
        closed = problem.dynamics + problem.actuation @ gain
        reached = (
            problem.state_cost
            + gain.mT @ problem.action_cost @ gain
            + problem.discount * closed.mT @ reached @ closed
        )
        found.insert(0, reached)
    return torch.stack(found)


def expected_return(problem: ControlProblem) -> Float[Tensor, ""]:
    """J = V_1(s_1) in closed form; differentiable in all that the problem holds.

    Args:
        problem: the problem.

    Returns:
        The expectation over the noise.

    Example:
        ``expected_return(random_problem())``
    """
    matrices = value_matrices(problem)
    total = -_form(problem.start, matrices[0]) / 2
    for t in range(problem.horizon):
        # What the noise of step t costs by itself and through the state that it moves.
        cost = problem.action_cost
        if t + 1 < problem.horizon:
            moved = problem.actuation.mT @ matrices[t + 1] @ problem.actuation
            cost = cost + problem.discount * moved
        total = total - problem.discount**t * problem.noise**2 * cost.trace() / 2
    return total


def with_optimal_gains(problem: ControlProblem) -> ControlProblem:
    """The same problem under the best policy: K_t = −(R + γ BᵀPB)⁻¹ γ BᵀPA, by Riccati's recursion.

    Args:
        problem: the problem; its own gains only say how many steps it has.

    Returns:
        The problem with those gains.

    Example:
        ``value_matrices(with_optimal_gains(problem))``
    """
    reached = torch.zeros_like(problem.state_cost)
    gains: list[Tensor] = []
    for _ in range(problem.horizon):
        pushed = problem.discount * problem.actuation.mT @ reached
        gain = -torch.linalg.solve(
            problem.action_cost + pushed @ problem.actuation, pushed @ problem.dynamics
        )
        # Riccati's form, which is that of `value_matrices` only at the best gain.
        reached = problem.state_cost + problem.discount * problem.dynamics.mT @ reached @ (
            problem.dynamics + problem.actuation @ gain
        )
        gains.insert(0, gain)
    return replace(problem, gains=torch.stack(gains))


def noise_grid(problem: ControlProblem) -> tuple[Float[Tensor, "N T U"], Float[Tensor, " N"]]:
    """Gauss–Hermite nodes and weights for expectations over the noise of a whole trajectory.

    Args:
        problem: the problem; N is 3 to the number of noise coordinates.

    Returns:
        Noise, and weights that sum to 1. Exact up to degree 5 in each coordinate.

    Example:
        >>> round(float(noise_grid(random_problem())[1].sum()), 12)
        1.0
    """
    actions = problem.actuation.shape[1]
    nodes, weights = np.polynomial.hermite_e.hermegauss(QUADRATURE_POINTS)
    node, weight = torch.from_numpy(nodes), torch.from_numpy(weights / weights.sum())
    count = problem.horizon * actions
    which = torch.cartesian_prod(*[torch.arange(QUADRATURE_POINTS)] * count)
    grid = problem.noise * node[which].view(-1, problem.horizon, actions)
    return grid, weight[which].view(len(which), count).prod(1)


def _form(vectors: Float[Tensor, "*N S"], matrix: Float[Tensor, "S S"]) -> Float[Tensor, "*N"]:
    return torch.einsum("...i,ij,...j->...", vectors, matrix, vectors)
