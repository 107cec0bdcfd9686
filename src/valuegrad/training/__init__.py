"""GRPO: the objective, its settings, and one loop a kind of answer."""
