"""Training: the configuration, checkpoints, the criterion, sampling, the optimiser, and the run that joins them."""
