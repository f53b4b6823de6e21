"""WHERE IT RUNS: a saved predictor over tables of any length."""
