"""Search spaces, and objectives that score a parameter set by heads on frozen features or by fine-tuning."""
