"""Tasks: prompts in two splits and a reward, one file a kind."""
