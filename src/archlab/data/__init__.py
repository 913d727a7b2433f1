"""Data sources, tokenizers and batches."""
