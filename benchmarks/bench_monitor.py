"""Claim: a CreditMonitor every 10 updates adds at most 15% to a TRL run and changes no loss.

The script is examples/monitor_trl.py's trainer: 30 updates of 8 prompts with 8 completions of 4
tokens, as short as updates get; the longer the completions, the smaller the share. Runs with and
without alternate.
"""

from __future__ import annotations

import logging
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from machine import machine, ratio

sys.path.insert(0, str(Path(__file__).parents[1]))
from examples.monitor_trl import make_trainer

from valuegrad.trl import CreditMonitor

STEPS, EVERY, ROUNDS = 30, 10, 5


def run(model: str, watched: bool) -> tuple[float, list[tuple[float, float]]]:
    """Processor seconds of a run, and each update's loss and gradient norm."""
    with tempfile.TemporaryDirectory() as folder:
        trainer: Any = make_trainer(
            model, folder, max_steps=STEPS, logging_steps=1, disable_tqdm=True
        )
        if watched:
            CreditMonitor(every=EVERY).attach(trainer)
        start = time.process_time()
        trainer.train()
        spent = time.process_time() - start
    rows = [row for row in trainer.state.log_history if "loss" in row]
    return spent, [(row["loss"], row["grad_norm"]) for row in rows]


def main(model: str) -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    print(machine())
    run(model, True)
    ratios, same = [], True
    for _ in range(ROUNDS):
        plain, losses = run(model, False)
        with_monitor, losses_too = run(model, True)
        ratios.append(with_monitor / plain)
        same = same and losses == losses_too
    found = ratio((statistics.median(ratios), min(ratios), max(ratios)))
    print(f"with / without, processor time of {STEPS} updates: {found}, at most 1.15")
    print(f"losses and gradient norms identical: {same}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "runs/demo/pretrain/step300")
