"""Optuna as the engine. Optuna is imported here and nowhere else."""
