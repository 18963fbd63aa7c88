"""The inverse-transformation network is trained and measured here, from label maps alone."""
