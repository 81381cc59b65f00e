"""Training: linear probes of all folds in one program, and the compiled step of fine-tuning."""
