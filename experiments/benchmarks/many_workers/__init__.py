"""How well storage and tracking keep up with many workers: `python -m experiments.benchmarks.many_workers`."""
