"""The models of the page, the experiments with them, and the sessions of visitors."""
