"""States of a trial, in Optuna's words."""

COMPLETE, PRUNED, FAILED, RUNNING = "COMPLETE", "PRUNED", "FAIL", "RUNNING"
