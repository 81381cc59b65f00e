"""From finished trials to MLflow: the outbox, the process that empties it, and what it writes."""
