"""Studies: measure every checkpoint, keep the records, draw the conclusions."""
