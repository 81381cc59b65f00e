"""Pixels -> predictions. Keras, TensorFlow, JAX and OpenVINO are imported here and nowhere else."""
