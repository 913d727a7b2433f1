"""Proof that a model equals its reference in `transformers`, with negative controls; `archlab parity` runs it."""
