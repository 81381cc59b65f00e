"""Prediction tasks, which define the classes, the loss, the metrics and the decision rule."""
