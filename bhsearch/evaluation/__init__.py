"""Predictions -> numbers. NumPy, SciPy and scikit-learn only."""
