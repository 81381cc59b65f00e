"""Trial -> score: the rooms joined. Optuna lives here and nowhere else."""
