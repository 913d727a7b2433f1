"""Generation: one engine that continues token sequences with any `models.protocols.Decoder`."""
