"""valuegrad: which checkpoint reinforcement learning will improve most, by how much, and why.

The public names, in the order in which data flows.
"""

from valuegrad.budget import Budget
from valuegrad.checkpoints.checkpoint import Checkpoint, parse_revision
from valuegrad.checkpoints.references import resolve
from valuegrad.credit.answer_gradients import AnswerGradients, answer_gradients
from valuegrad.credit.costates import Costates, costates, costates_at
from valuegrad.credit.enumeration import sampled_value_gradient
from valuegrad.credit.relaxed import RelaxedCostates, gumbel_noise, relaxed_costates
from valuegrad.credit.sampling_gap import SamplingGap, sampling_gap
from valuegrad.credit.scores import prompt_state_scores
from valuegrad.credit.squared_norm import inner_product, squared_norm
from valuegrad.credit.theorem_one import TheoremOne, theorem_one
from valuegrad.credit.value_gradient import value_gradient
from valuegrad.errors import RunError, UserError, ValuegradError
from valuegrad.impact.headroom import headroom
from valuegrad.impact.held_out import held_out_rewards
from valuegrad.impact.probe import Probe, probe
from valuegrad.impact.sampled import measure_rollouts
from valuegrad.impact.score import Score, score
from valuegrad.impact.settings import Sampling
from valuegrad.impact.signal import Impact
from valuegrad.impact.teacher_forced import measure_exact_answers
from valuegrad.impact.vocabulary import measure
from valuegrad.methods import METHODS, PopulationAdvantages, advantages, population_advantages
from valuegrad.model.policy import Policy, load_policy
from valuegrad.prompts import CompletionPrompts, completion_prompts
from valuegrad.rewards.exact import Exact
from valuegrad.rewards.example import Example
from valuegrad.rewards.function import FunctionReward
from valuegrad.sampler import Rollouts, rollouts
from valuegrad.study.laws import Law, tilt
from valuegrad.study.statistics import Correlation, correlate
from valuegrad.tasks.arithmetic import arithmetic
from valuegrad.tasks.jsonl import jsonl_task
from valuegrad.tasks.label_copy import label_copy
from valuegrad.tasks.task import Task
from valuegrad.theory.bound import bound_points, summarise_bounds
from valuegrad.theory.statement import Statement
from valuegrad.theory.trace import Trace, TracedToken, trace
from valuegrad.theory.verify import verify
from valuegrad.training.objective import grpo_objective
from valuegrad.training.one_token import Training
from valuegrad.training.train import train

__all__ = [
    "METHODS",
    "AnswerGradients",
    "Budget",
    "Checkpoint",
    "CompletionPrompts",
    "Correlation",
    "Costates",
    "Exact",
    "Example",
    "FunctionReward",
    "Impact",
    "Law",
    "Policy",
    "PopulationAdvantages",
    "Probe",
    "RelaxedCostates",
    "Rollouts",
    "RunError",
    "Sampling",
    "SamplingGap",
    "Score",
    "Statement",
    "Task",
    "TheoremOne",
    "Trace",
    "TracedToken",
    "Training",
    "UserError",
    "ValuegradError",
    "advantages",
    "answer_gradients",
    "arithmetic",
    "bound_points",
    "completion_prompts",
    "correlate",
    "costates",
    "costates_at",
    "grpo_objective",
    "gumbel_noise",
    "headroom",
    "held_out_rewards",
    "inner_product",
    "jsonl_task",
    "label_copy",
    "load_policy",
    "measure",
    "measure_exact_answers",
    "measure_rollouts",
    "parse_revision",
    "population_advantages",
    "probe",
    "prompt_state_scores",
    "relaxed_costates",
    "resolve",
    "rollouts",
    "sampled_value_gradient",
    "sampling_gap",
    "score",
    "squared_norm",
    "summarise_bounds",
    "theorem_one",
    "tilt",
    "trace",
    "train",
    "value_gradient",
    "verify",
]
