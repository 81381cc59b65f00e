"""Deployed models of encoders that are no Keras networks: one ONNX graph or one OpenVINO model."""

from pathlib import Path


def standalone_file() -> Path:
    """Return the file of the loader that deployed OpenVINO models carry."""
    return Path(__file__).with_name("standalone.py")
