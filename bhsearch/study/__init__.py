"""Running a study: preparation, trials, workers, resume, and the result."""
