"""Data: reading data sets from files, splitting them and decoding images, without a machine-learning framework."""
