"""The two arms: a shared backbone with a token head or an embedding head."""
