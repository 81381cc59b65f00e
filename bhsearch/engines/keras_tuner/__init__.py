"""KerasTuner as the engine. KerasTuner is imported here and nowhere else."""
