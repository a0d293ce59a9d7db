"""Decisions: text, latent policy, low-level policy and the stack that joins them."""
