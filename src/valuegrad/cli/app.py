"""The command line: which commands there are, and errors to exit codes.

A command is imported when it is called, so that help and a wrong word answer at once.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cyclopts import App

COMMANDS = {
    "study": ("study:study", "Score every checkpoint, run GRPO from each, and report"),
    "score": ("study:score", "Rank checkpoints by predicted gain; no RL is run"),
    "train": ("study:train", "Run GRPO from each checkpoint"),
    "report": ("study:report", "Make a study's figures and page anew from its records"),
    "bound": ("theory:bound", "Hold the sampling gap against its bounds (Fig. 2)"),
    "verify": ("theory:verify", "Check every statement of the theory on a checkpoint"),
    "trace": ("theory:trace", "Show where the credit of a completion goes"),
    "checkpoints": ("checkpoints:checkpoints", "List what references resolve to"),
    "pretrain": ("checkpoints:pretrain", "Pretrain a small model with checkpoints"),
}
HELP = """Usage: valuegrad COMMAND

Which checkpoint will reinforcement learning improve most, by how much, and why.

Commands:
{commands}

`valuegrad COMMAND --help` has an example and every flag; --version prints the version."""


def main() -> None:
    """Run the command line and leave with its exit code: 0 done, 2 wrong request, 1 failed."""
    sys.exit(run(sys.argv[1:]))


def run(words: list[str]) -> int:
    """Run the command that the words after ``valuegrad`` ask for; its exit code."""
    if not words or words[0] in ("--help", "-h"):
        lines = (f"  {name:<12} {summary}" for name, (_, summary) in COMMANDS.items())
        print(HELP.format(commands="\n".join(lines)))
        return 0
    if words[0] == "--version":
        from importlib.metadata import version

        print(version("valuegrad"))
        return 0
    from cyclopts import CycloptsError

    from valuegrad.cli.messages import as_typed, wrong_flag
    from valuegrad.errors import UserError, ValuegradError

    app, code = make_app(), 1
    try:
        failures = app(words, exit_on_error=False, print_error=False, result_action="return_value")
        if not failures:
            return 0
    except CycloptsError as error:
        failures, code = [wrong_flag(error)], 2
    except UserError as error:
        failures, code = [str(error)], 2
    except ValuegradError as error:
        failures = [str(error)]
    except KeyboardInterrupt:
        failures = ["stopped; study, score, train and bound go on from here with the same --out"]
    for failure in failures:
        print(f"valuegrad: {as_typed(failure, app, words[0])}", file=sys.stderr)
    return code


def make_app() -> App:
    """The commands, none of them imported yet."""
    from cyclopts import App, Parameter

    from valuegrad.cli.settings import converted

    app = App(
        name="valuegrad",
        default_parameter=Parameter(negative=(), converter=converted),
        suppress_keyboard_interrupt=False,
    )
    for name, (function, _) in COMMANDS.items():
        app.command(f"valuegrad.cli.{function}", name=name)
    return app
