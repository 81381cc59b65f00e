"""Predictions -> numbers -> pictures. NumPy, scikit-learn and Matplotlib only."""
