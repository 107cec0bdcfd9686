"""The model: a causal language model as a policy, its hidden states and its cache."""
