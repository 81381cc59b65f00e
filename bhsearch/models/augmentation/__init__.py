"""Augmentation: policies, fixed views for frozen features, and random transforms on the device for fine-tuning."""
