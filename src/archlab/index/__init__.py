"""Vector search behind one protocol: exact in NumPy, embedded in the process, or on a Qdrant server.

`places.open_index` opens any of them, `protocol` says what they promise, and `filters` is the language of conditions on
metadata that all of them honour.
"""
