"""Upload finished trials to MLflow: the outbox, the process that empties it, and the runs that it writes."""
