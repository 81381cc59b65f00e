"""Backbones: what each network is, where its weights come from, and how it is built."""
