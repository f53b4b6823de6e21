"""Approximations of a posterior by a law of a simple family, each judged by its importance weights."""
