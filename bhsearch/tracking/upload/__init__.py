"""Upload finished trials to MLflow: the outbox, the process that sends its trials, and the runs of the trials."""
