"""Credit: value gradients, and the costates that estimate them."""
