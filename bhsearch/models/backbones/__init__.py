"""Backbones: registry, pretrained networks, fixed filters and a network for training from scratch."""
