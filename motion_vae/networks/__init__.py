"""Neural networks of the autoencoders."""
