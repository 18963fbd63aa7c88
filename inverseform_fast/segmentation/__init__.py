"""Segmentation models are trained with the loss and evaluated here; this needs the extra ``train``."""
