"""The continuous lens (theory §5): control problems in which everything is known."""
