"""Flavours of MLflow models that are no Keras networks."""
