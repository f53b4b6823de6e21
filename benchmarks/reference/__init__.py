"""The models, data and answers of the 26 reference posteriors; see registry.py."""
