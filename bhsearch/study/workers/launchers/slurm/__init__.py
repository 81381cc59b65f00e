"""The launcher `slurm`, which submits the jobs of a study to SLURM."""
