"""Evaluation of predictions: metrics, intervals, calibration and promotion, with NumPy, SciPy and scikit-learn only."""
