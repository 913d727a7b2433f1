"""A procedural visual world with full ground truth: scenes, pictures, language, questions, videos. Pure NumPy."""
