"""Physics: rewards, observations, simulated robots and viewers."""
