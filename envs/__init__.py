"""Physics: the tracking task for one robot and for many, rewards, observations, rendering."""
