"""What a GPU makes of the search: `python -m experiments.benchmarks.gpu`."""
