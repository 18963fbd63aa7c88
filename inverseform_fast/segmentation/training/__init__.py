"""The criterion, the sampling of batches, the optimizer, and the training run that joins them."""
