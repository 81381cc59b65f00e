"""What a study concludes: the ranking of its trials, the proposed one, its robustness, and the result."""
