"""Our models and their counterparts in `transformers`: options, weights and checkpoints in both directions, parity."""
