"""States of a trial, with the same values as in Optuna."""

COMPLETE, PRUNED, FAILED, RUNNING = "COMPLETE", "PRUNED", "FAIL", "RUNNING"
