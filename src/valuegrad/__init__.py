"""valuegrad: which checkpoint reinforcement learning will improve most, by how much, and why.

The public names, in the order in which data flows.
"""

from valuegrad.advantages import METHODS, PopulationAdvantages, advantages, population_advantages
from valuegrad.checkpoints import Checkpoint, parse_revision, resolve
from valuegrad.credit.costates import Costates, costates
from valuegrad.credit.value_gradient import value_gradient
from valuegrad.errors import RunError, UserError, ValuegradError
from valuegrad.impact import Impact, measure
from valuegrad.policy import Policy, load_policy
from valuegrad.probe import Probe, probe
from valuegrad.score import Score, score
from valuegrad.study.laws import Law, tilt
from valuegrad.study.statistics import Correlation, correlate
from valuegrad.tasks.jsonl import jsonl_task
from valuegrad.tasks.label_copy import label_copy
from valuegrad.tasks.rewards import Exact, FunctionReward
from valuegrad.tasks.task import Example, Task
from valuegrad.training.objective import grpo_objective
from valuegrad.training.one_token import Training, train
from valuegrad.training.settings import Budget

__all__ = [
    "METHODS",
    "Budget",
    "Checkpoint",
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
    "RunError",
    "Score",
    "Task",
    "Training",
    "UserError",
    "ValuegradError",
    "advantages",
    "correlate",
    "costates",
    "grpo_objective",
    "jsonl_task",
    "label_copy",
    "load_policy",
    "measure",
    "parse_revision",
    "population_advantages",
    "probe",
    "resolve",
    "score",
    "tilt",
    "train",
    "value_gradient",
]
