"""One file per method: its configuration, its objective and METHODS."""
