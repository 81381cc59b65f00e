"""Numbers -> what is kept. MLflow is imported here and nowhere else."""
