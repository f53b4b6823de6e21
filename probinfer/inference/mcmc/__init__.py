"""Markov chains: one loop over blocks of draws (chains.py), and the kernels that it drives."""
