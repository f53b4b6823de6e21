"""Posteriors in closed form."""
