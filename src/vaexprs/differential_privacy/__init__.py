"""Training with differential privacy: accounting, noisy marginals and DP-SGD."""
