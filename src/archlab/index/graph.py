"""`python graph.py SHARD`: build the graph of a shard that nothing else has open.

A process of its own, because the engine holds Python's global lock for as long as that takes; see `embedded`.
"""

from __future__ import annotations

import os
import sys

import qdrant_edge as edge


def main() -> None:
    """Load, optimise, close."""
    if hasattr(os, "nice"):
        os.nice(10)  # whoever searches meanwhile comes first
    shard = edge.EdgeShard.load(sys.argv[1])
    shard.optimize()
    shard.close()


if __name__ == "__main__":
    main()
