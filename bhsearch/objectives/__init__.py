"""Objectives: from the parameters of a trial to its score, and the space of these parameters."""
