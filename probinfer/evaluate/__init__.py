"""How good predictions and models are: metrics, cross-validation, comparison, checks, monitoring."""
