"""Training: linear probes of all folds in one program, and fine-tuning by compiled steps."""
