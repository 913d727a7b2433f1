"""Training on text: characters, translation, sentiment."""
