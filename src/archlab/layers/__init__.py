"""Parts that every model shares: attention, masks, positions, norms, feed-forward, embeddings, pooling, cache."""
