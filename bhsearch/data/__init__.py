"""Files to data set to split to pixels, without any machine-learning framework."""
