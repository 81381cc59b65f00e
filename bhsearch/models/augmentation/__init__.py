"""Augmentation: policies, fixed views of the frozen regime, and random transforms on the device for fine-tuning."""
