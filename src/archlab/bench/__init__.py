"""Benchmarks: our code beside its peers, in one run, alternating."""
