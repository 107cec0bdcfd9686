"""A TRL script that shows while it runs what RL still has to gain: one line more than without.

Run: python examples/monitor_trl.py MODEL, for example a checkpoint of `make demo`.
"""

import random
import sys
import tempfile
from typing import Any

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from valuegrad.trl import CreditMonitor


def sums(count: int) -> Dataset:
    """Small sums to learn."""
    rng = random.Random(0)
    pairs = [(rng.randrange(10), rng.randrange(10)) for _ in range(count)]
    return Dataset.from_list([{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a, b in pairs])


def reward(completions: list[str], answer: list[str], **columns: object) -> list[float]:
    """1 for a completion that begins with the answer."""
    return [float(c.startswith(a)) for c, a in zip(completions, answer, strict=True)]


def make_trainer(model: str, folder: str, **settings: Any) -> GRPOTrainer:
    """TRL's trainer, as without valuegrad."""
    arguments = GRPOConfig(
        output_dir=folder,
        learning_rate=1e-4,
        num_generations=8,
        per_device_train_batch_size=64,
        max_completion_length=4,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        bf16=False,
        **settings,
    )
    return GRPOTrainer(model=model, reward_funcs=reward, args=arguments, train_dataset=sums(256))


def main(model: str, steps: int = 30, every: int = 10) -> CreditMonitor:
    """Train a few steps and print what the monitor saw."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(model, folder, max_steps=steps, logging_steps=every)
        monitor = CreditMonitor(every=every).attach(trainer)
        trainer.train()
    for row in trainer.state.log_history:
        shown = {k: round(v, 4) for k, v in row.items() if k.startswith("valuegrad/")}
        if shown:
            print(row["step"], shown)
    return monitor


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/monitor_trl.py MODEL")
    main(sys.argv[1])
