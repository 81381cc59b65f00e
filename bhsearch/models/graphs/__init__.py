"""Deployed models of encoders that are no Keras networks: one ONNX graph or one OpenVINO model."""
