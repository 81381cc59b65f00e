"""Objectives: search space, and the score of a parameter set by frozen features or fine-tuning."""
