"""The endpoints. A further router is imported here and added to `ROUTERS`."""

from archlab.serve.routes import (
    answer,
    attention,
    caption,
    classify,
    collections,
    compare,
    completions,
    embeddings,
    health,
    models,
    stream,
    text,
)

ROUTERS = (
    embeddings.router,
    classify.router,
    answer.router,
    caption.router,
    compare.router,
    attention.router,
    stream.router,
    collections.router,
    text.router,
    completions.router,
    models.router,
    health.router,
)
