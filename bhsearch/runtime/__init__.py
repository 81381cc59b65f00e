"""Processes, locks, cache, signals and other services that do not depend on the data or the networks."""
