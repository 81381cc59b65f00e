"""Pixels to predictions; the only home of Keras, TensorFlow, JAX and OpenVINO."""
