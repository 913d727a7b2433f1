"""Trained runs for other runtimes than PyTorch."""
