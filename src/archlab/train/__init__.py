"""Training: the loop, its optimiser and schedule, and what is written to the run's folder."""
