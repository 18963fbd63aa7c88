"""Triton kernels, one file per op; each function equals that of :mod:`inverseform_fast.reference`, in float32."""
