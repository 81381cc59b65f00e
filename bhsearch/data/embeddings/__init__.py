"""Vectors of images that an encoder computed elsewhere: read files, convert them once, and join them to a data set."""
