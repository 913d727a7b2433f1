"""Transformer vs VL-JEPA: learn both from scratch, compare them on your own data, ship the winner."""

__version__ = "0.1.0"
