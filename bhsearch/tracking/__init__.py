"""Numbers -> what is kept. MLflow lives here and nowhere else."""
