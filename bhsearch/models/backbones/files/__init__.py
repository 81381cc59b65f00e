"""Encoders in files of other frameworks: ONNX, OpenVINO and SavedModel."""
