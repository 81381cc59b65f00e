"""Parts of the computation of frozen features: storage in parts, and the floating-point precision of encoders."""
