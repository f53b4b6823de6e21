"""Models written as a formula: what is read, what columns it makes, and the NumPyro function that comes of it."""
