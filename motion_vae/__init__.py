"""Discrete autoencoders of motion segments."""
