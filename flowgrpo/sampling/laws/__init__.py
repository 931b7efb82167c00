"""The law of one step, as arithmetic on predictions: Gaussian, unmasking, with learned settings."""
