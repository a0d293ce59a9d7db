"""Motion evaluators shipped with the package, one folder per data set and seed."""
