"""Supplementary statistics of predictions: calibration slope, case-level AUC, precision of an AUC, net benefit."""
