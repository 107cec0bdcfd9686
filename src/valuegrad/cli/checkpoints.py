"""The commands that list checkpoints and make some: checkpoints and pretrain."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from valuegrad.cli import settings as flags
from valuegrad.cli.console import deliver, progress_on_stderr
from valuegrad.errors import UserError


def checkpoints(
    references: flags.Checkpoints, /, *, common: flags.CommonFlags = flags.COMMON
) -> None:
    """List what references resolve to, in the order in which a study takes them.

    A repository alone lists all its revisions; no weights are downloaded.
    Example: ``valuegrad checkpoints 'allenai/OLMo-2-0425-1B@stage1-step*'``
    """
    from valuegrad.checkpoints.references import resolve
    from valuegrad.cli.tables import table

    names = ("revision", "step", "tokens", "commit")
    rows = [
        {"checkpoint": c.name, **{name: getattr(c, name) for name in names}}
        for c in resolve(references, every_revision=True)
    ]
    shown = table(("checkpoint", "step", "tokens", "commit"), rows)
    deliver(common, rows, shown, name="checkpoints")


def pretrain(
    folder: Annotated[Path, Parameter(name="DIR")],
    /,
    *,
    preset: str = "demo",
    seed: int = 0,
    common: flags.CommonFlags = flags.COMMON,
) -> None:
    """Pretrain a small model on the standard library's source, with checkpoints along the way.

    A finished run is left as it is. Example: ``valuegrad pretrain runs/demo/pretrain``

    Args:
        folder: where the checkpoints go.
        preset: demo, arithmetic (demo with problems to learn), small, medium or large (1M to 100M
            parameters).
        seed: of initialisation and data order.
    """
    from valuegrad.demo import pretrain as demo

    if preset not in demo.PRESETS:
        raise UserError("preset", repr(preset), f"one of {', '.join(demo.PRESETS)}", "choose one")
    recipe = demo.PRESETS[preset]
    with progress_on_stderr() as progress:
        made = demo.pretrain(
            folder,
            recipe,
            seed=seed,
            device=common.device,
            progress=lambda step, loss: progress("pretraining", step, recipe.steps),
        )
    names = [str(path) for path in made]
    paths = [f"{len(made)} checkpoints: '{folder}/step*'"]
    deliver(common, names, paths=paths, name="pretrain")
