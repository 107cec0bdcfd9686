# The public names, grouped as docs/theory.md groups them. `__init__.py` reads this file and imports
# a name's module when the name is first used.

# What goes wrong
from .errors import ValuegradError as ValuegradError
from .errors import UserError as UserError
from .errors import RunError as RunError
from .errors import DownloadError as DownloadError

# 0. Checkpoints, policies, tasks and what is drawn
from .checkpoints.checkpoint import Checkpoint as Checkpoint
from .checkpoints.names import parse_revision as parse_revision
from .checkpoints.references import resolve as resolve
from .model.policy import Policy as Policy
from .model.loading import load_policy as load_policy
from .tasks.task import Task as Task
from .rewards.example import Example as Example
from .tasks.label_copy import label_copy as label_copy
from .tasks.arithmetic import arithmetic as arithmetic
from .tasks.jsonl import jsonl_task as jsonl_task
from .tasks.gym import gym_task as gym_task
from .rewards.exact import Exact as Exact
from .rewards.function import FunctionReward as FunctionReward
from .prompts import Prompts as Prompts
from .prompts import TaskPrompts as TaskPrompts
from .prompts import tokenise as tokenise
from .sampler import Rollouts as Rollouts
from .sampler import rollouts as rollouts

# 1. Empirical costates (Def. 2, Eqs. 14, 15)
from .credit.completions import Completions as Completions
from .credit.completions import completions as completions
from .credit.costates import Costates as Costates
from .credit.costates import costates as costates
from .credit.costates import costates_at as costates_at
from .credit.cache_recursion import cache_costates as cache_costates
from .credit.cache_recursion import one_step_costates as one_step_costates
from .theory.trace import Trace as Trace
from .theory.trace import TracedToken as TracedToken
from .theory.trace import trace as trace

# 2. Value gradients (Eqs. 8, 9, 12)
from .credit.value_gradient import value_gradient as value_gradient
from .credit.answer_gradients import AnswerGradients as AnswerGradients
from .credit.answer_gradients import answer_gradients as answer_gradients
from .credit.enumeration import enumerate_completions as enumerate_completions
from .credit.enumeration import enumerated_value_gradient as enumerated_value_gradient
from .credit.enumeration import sampled_value_gradient as sampled_value_gradient
from .credit.scores import prompt_state_scores as prompt_state_scores
from .credit.squared_norm import squared_norm as squared_norm
from .credit.squared_norm import inner_product as inner_product

# 3. Critic-free methods
from .budget import METHODS as METHODS
from .methods import advantages as advantages
from .methods import PopulationAdvantages as PopulationAdvantages
from .methods import population_advantages as population_advantages
from .methods import token_weight as token_weight
from .finite_groups import GroupAdvantages as GroupAdvantages
from .finite_groups import group_advantages as group_advantages
from .finite_groups import limit_advantages as limit_advantages

# 4. The sampling gap (Def. 1, Eqs. 19 to 23, Props. 2 and 3, Thm. 1 as in correction H)
from .credit.jacobians import step_jacobian as step_jacobian
from .credit.jacobians import sampling_jacobian as sampling_jacobian
from .credit.jacobians import spectral_norm as spectral_norm
from .credit.jacobians import effective_rank as effective_rank
from .credit.sampling_gap import SamplingGap as SamplingGap
from .credit.sampling_gap import sampling_gap as sampling_gap
from .credit.bounds import bounds as bounds
from .credit.bounds import entropy_constant as entropy_constant
from .theory.bound import bound_points as bound_points
from .theory.bound import summarise_bounds as summarise_bounds
from .credit.attention_paths import attention_paths as attention_paths
from .credit.relaxed import RelaxedCostates as RelaxedCostates
from .credit.relaxed import relaxed_costates as relaxed_costates
from .credit.relaxed import gumbel_noise as gumbel_noise
from .credit.theorem_one import TheoremOne as TheoremOne
from .credit.theorem_one import theorem_one as theorem_one

# 5. The continuous lens (Eqs. 6, 7)
from .theory.linear_quadratic import ControlProblem as ControlProblem
from .theory.linear_quadratic import control_costates as control_costates
from .theory.linear_quadratic import parameter_gradient as parameter_gradient
from .theory.linear_quadratic import value_matrices as value_matrices

# 6. Impact (Eqs. 24 to 31)
from .impact.signal import Impact as Impact
from .impact.vocabulary import measure as measure
from .impact.headroom import headroom as headroom
from .impact.mixing import mixing as mixing
from .impact.held_out import held_out_rewards as held_out_rewards
from .impact.forecast import Forecast as Forecast
from .impact.forecast import forecast as forecast
from .impact.probe import Probe as Probe
from .impact.probe import probe as probe
from .impact.settings import Sampling as Sampling
from .impact.score import Score as Score
from .impact.score import score as score
from .study.laws import Law as Law
from .study.laws import tilt as tilt
from .study.correlation import Correlation as Correlation
from .study.correlation import correlate as correlate

# Eq. 1, and every statement on one model
from .budget import Budget as Budget
from .training.objective import grpo_objective as grpo_objective
from .training.run import Training as Training
from .training.train import train as train
from .theory.statement import Statement as Statement
from .theory.verify import verify as verify
