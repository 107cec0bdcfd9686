"""The theory on a model: its statements with both sides evaluated."""
