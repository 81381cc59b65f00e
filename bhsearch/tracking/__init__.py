"""All code that uses MLflow: the store, the runs of studies and trials, and the model registry."""
