"""What the loss costs in a training step, on this machine: ``inverseform-fast bench``."""
