"""What can go wrong, in two kinds: the request was wrong, or the run failed.

Messages name arguments, others in backticks: "raise `rollouts`". The command line shows flags.
"""

import difflib
import math
from collections.abc import Collection


class ValuegradError(Exception):
    """The base of every error that valuegrad raises on purpose."""


class UserError(ValuegradError, ValueError):
    """The request was wrong: names the argument, what it was, what was wanted and the fix.

    The command line prints it as one message on stderr and exits with 2.

    Args:
        argument: the argument, configuration key, file or function at fault, as the user knows it.
        got: what it was.
        wanted: what would have been right.
        fix: what to do now.

    Example:
        >>> print(UserError("alpha", "-1", "a number above 0", "use the default, 5"))
        alpha: got -1; wanted a number above 0. Fix: use the default, 5
    """

    def __init__(self, argument: str, got: str, wanted: str, fix: str) -> None:
        self.argument, self.got, self.wanted, self.fix = argument, got, wanted, fix
        super().__init__(f"{argument}: got {got}; wanted {wanted}. Fix: {fix}")


class RunError(ValuegradError, RuntimeError):
    """A failure while running (exit code 1): what is finished is kept, and it says how to go on."""


class DownloadError(RunError):
    """A checkpoint could not be had from the hub: a failure of that checkpoint alone."""


class NotFiniteError(RunError):
    """A number that a policy gives is NaN or infinite; the message says where it was met first."""


def suggestion(got: str, choices: Collection[str], otherwise: str) -> str:
    """The fix for a word that is none of some: the nearest of them, or `otherwise`."""
    near = difflib.get_close_matches(got, choices, n=1)
    return f"did you mean {near[0]!r}?" if near else otherwise


def check_positive(argument: str, value: float, fix: str) -> None:
    """Refuse what is not a finite number above 0."""
    if not (math.isfinite(value) and value > 0):
        raise UserError(argument, str(value), "a number above 0", fix)


def first_line(error: BaseException) -> str:
    """What another library's error says, short enough for a message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
