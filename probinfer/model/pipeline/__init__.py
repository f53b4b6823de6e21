"""Preprocessing that travels: raw columns to the arrays of a model, and its outcome back to units of its own."""
