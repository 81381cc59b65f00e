"""Pixels -> predictions. Keras lives here and nowhere else."""
