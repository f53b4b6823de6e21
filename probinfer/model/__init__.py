"""WHAT IS ASKED: a model and its data become a `Target`, a log density on R^d with a way back to its parameters."""
