"""Scripts that train, score and evaluate, with their recipes."""
