"""Objectives: a model and a batch to an `Output`. They own the parameters of the loss and nothing else."""
