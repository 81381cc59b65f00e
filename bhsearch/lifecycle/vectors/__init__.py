"""Registered models that take vectors instead of images: which vectors they take, and predictions with them."""
