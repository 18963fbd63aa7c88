"""Training and measuring the inverse-transformation network, from label maps alone."""
