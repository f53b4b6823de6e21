"""WHAT WE SAY ABOUT NEW ROWS: from a posterior to a predictor, and to plain files that answer without the model."""
