"""Checkpoints on the Hugging Face hub: which revisions there are, their files, room on the disk."""
