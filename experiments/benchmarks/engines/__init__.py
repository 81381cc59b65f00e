"""Engines, samplers and pruners compared on recorded searches: record once, replay in milliseconds a trial."""
