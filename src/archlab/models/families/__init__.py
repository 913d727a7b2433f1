"""The entries of the registry, one module per kind; see `models.registry`."""
