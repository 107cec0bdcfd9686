"""Checkpoints: from references to folders whose content is known by its hash."""
