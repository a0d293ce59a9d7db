"""Segments of motion as a domain of the autoencoders."""
