"""RL impact (theory §6): one file a way to measure it, and what they all are summarised to."""
