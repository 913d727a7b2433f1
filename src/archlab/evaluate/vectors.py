"""Unit vectors and cosines, the one definition that retrieval, probes and collapse diagnostics share."""

from __future__ import annotations

import numpy as np


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows (n, E) scaled to length 1, float32 or wider; rows of zeros stay zero."""
    wide = np.asarray(vectors, dtype=np.promote_types(np.asarray(vectors).dtype, np.float32))
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    return wide / np.maximum(norms, np.finfo(wide.dtype).tiny)


def cosine(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosine similarities (n, m) of rows (n, E) and (m, E); a row of zeros is orthogonal to all."""
    return unit(first) @ unit(second).T
