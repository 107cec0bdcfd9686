"""Rewards: what a completion earns, one file a kind."""
