"""Everything that knows MLflow: its store, the runs of a study, and the model registry."""
