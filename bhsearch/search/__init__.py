"""Trial -> score: the rooms joined. Optuna and KerasTuner live here and nowhere else."""
