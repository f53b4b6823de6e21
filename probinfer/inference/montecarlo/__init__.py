"""Monte Carlo without Markov chains: integrals by plain, quasi, importance and rejection sampling."""
