"""The embedded default: a small model pretrained on real text."""
