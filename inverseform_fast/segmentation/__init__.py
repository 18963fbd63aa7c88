"""Training and evaluating segmentation models with the loss (needs the extra ``train``)."""
