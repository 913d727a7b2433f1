"""`/v1/collections`: vectors with metadata, searched by text, image or vector.

A collection belongs to the model that its vectors come from, by the digest of the weights: texts and images are
embedded by that model, and vectors of another one are refused.
"""

from asyncio import gather
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, TypeVar

import numpy as np
from fastapi import APIRouter, Depends, Request
from pydantic import Field
from starlette.responses import Response

from archlab.errors import UserError
from archlab.index.filters import Filter, from_json
from archlab.index.metadata import Metadata, checked_metadata
from archlab.index.protocol import Collection, CollectionSpec, Points, VectorIndex, same_model
from archlab.serve import problems
from archlab.serve.calls import Call, Caller, accepts, allowed, reply, service_of
from archlab.serve.context import context_of
from archlab.serve.examples import red_circle
from archlab.serve.model import Model
from archlab.serve.openapi import named, operation
from archlab.serve.points import KINDS, CreateRequest, DeleteRequest, Meant, SearchRequest, UpsertForm, UpsertRequest
from archlab.serve.problems import Problem, invalid
from archlab.serve.routing import DirectRoute
from archlab.serve.schemas import DESCRIBE, Answer
from archlab.serve.service import Service

router = APIRouter(prefix="/v1/collections", tags=["collections"], route_class=DirectRoute)
Reader = Annotated[Caller, Depends(allowed("read"))]
Writer = Annotated[Caller, Depends(allowed("write"))]
Name = Annotated[str, named("pictures")]
Result = TypeVar("Result")


class CollectionInfo(Answer):
    """A collection."""

    name: str
    points: int
    width: int
    distance: str
    model: str | None = Field(description="Loaded model whose vectors these are; null: none, or it is not loaded.")
    model_name: str = Field(description="What that model was called when the collection was made.")
    model_digest: str = Field(description="SHA-256 of its weights; empty: vectors of your own.")
    query: str = Field(description="What the model is asked about every image.")


class CollectionList(Answer):
    """All collections."""

    data: list[CollectionInfo]


class Upserted(Answer):
    """How many points were stored."""

    upserted: int


class Deleted(Answer):
    """How many points were removed."""

    deleted: int


class Found(Answer):
    """One hit."""

    id: str
    score: float = Field(description="Cosine similarity, dot product, or minus the Euclidean distance.")
    metadata: dict[str, Any]


class SearchResponse(Answer):
    """The nearest points, the nearest first."""

    hits: list[Found]
    model: str | None = Field(description="That embedded the text or image.")


_MISSING = (problems.NOT_FOUND, problems.NOT_READY)
_CREATE = {"for the default model": {"name": "pictures"}, "for vectors of your own": {"name": "mine", "width": 4}}
_UPSERT = {
    "an image and a text": {
        "points": [
            {"id": "circle.png", "image": red_circle(), "metadata": {"colour": "red", "year": 1999}},
            {"id": "note", "text": "a blue square"},
        ]
    }
}
_DELETE = {"by id": {"ids": ["circle.png"]}, "by condition": {"where": {"field": "year", "lt": 1990}}}
_SEARCH = {
    "by text": {"text": "a red circle", "k": 3},
    "by image, under conditions": {
        "image": red_circle(),
        "where": {"and": [{"field": "colour", "in": ["red", "blue"]}, {"field": "year", "gte": 1990}]},
    },
}


@router.get("", **operation(CollectionList, also=(problems.NOT_READY,)))
async def list_collections(request: Request, _: Reader) -> Response:
    """List the collections."""
    service = service_of(request)

    def work(index: VectorIndex) -> list[tuple[Collection, int]]:
        return [(one, one.count()) for one in map(index.open, index.names())]

    found = await _on_index(request, work)
    return reply({"data": [_info(service, collection, points) for collection, points in found]})


@router.post(
    "", **operation(CollectionInfo, body=CreateRequest, examples=_CREATE, also=(problems.CONFLICT,), status=201)
)
async def create_collection(
    call: Annotated[Call[CreateRequest], Depends(accepts(CreateRequest, scope="write"))],
) -> Response:
    """Make a collection for the vectors of a model, the default one if none is named, or for vectors of your own."""
    body = call.body
    if body.width is not None and body.model is not None:
        raise invalid("width", "is for vectors of your own; leave out width or model")
    if body.width is not None:
        spec = CollectionSpec(width=body.width, distance=body.distance)
    else:
        with call.using("embed_texts", arm="vljepa") as model:  # whose texts and images share a space
            about = {"model": model.digest, "model_name": model.name, "query": body.query}
            spec = CollectionSpec(width=model.width, distance=body.distance, **about)
    collection = await _run(call, lambda index: index.create(body.name, spec))
    return reply(_info(call.service, collection, 0), 201)


@router.get("/{name}", **operation(CollectionInfo, also=_MISSING))
async def get_collection(name: Name, request: Request, _: Reader) -> Response:
    """Describe a collection."""
    collection, points = await _on_index(request, lambda index: ((one := index.open(name)), one.count()))
    return reply(_info(service_of(request), collection, points))


@router.delete("/{name}", **operation(None, also=_MISSING, status=204))
async def drop_collection(name: Annotated[str, named("mine")], request: Request, _: Writer) -> Response:
    """Remove a collection with all its points."""
    await _on_index(request, lambda index: index.drop(name))
    service_of(request).collections.sizes.pop(name, None)
    return Response(status_code=204)


@router.put(
    "/{name}/points",
    **operation(Upserted, body=UpsertRequest, examples=_UPSERT, forms=UpsertForm, also=(problems.CONFLICT,)),
)
async def upsert_points(
    name: Name,
    call: Annotated[Call[UpsertRequest | UpsertForm], Depends(accepts(UpsertRequest, scope="write", forms=UpsertForm))],
) -> Response:
    """Insert points, or replace those of the same id. Once this is answered, they outlive the process.

    Texts and images are embedded by the collection's model. A form is for images alone: its files are called by their
    names.
    """
    body, points = call.body, call.body.points
    call.count(len(points))
    metadata = [_metadata(point.metadata, body.field(at, "metadata")) for at, point in enumerate(points)]
    collection = await call.service.collections.open(name, call.context.deadline)
    vectors, _ = await _vectors(call, collection, points)
    batch = Points([point.id for point in points], vectors, metadata)

    def work(_: VectorIndex) -> int:
        collection.upsert(batch)
        return collection.count()

    with _naming("points" if isinstance(body, UpsertRequest) else "image"), call.step("write index", collection=name):
        call.service.collections.sizes[name] = await _run(call, work)
    call.service.collections.optimize(name)
    return reply({"upserted": len(points)})


@router.post("/{name}/points/delete", **operation(Deleted, body=DeleteRequest, examples=_DELETE))
async def delete_points(
    name: Name, call: Annotated[Call[DeleteRequest], Depends(accepts(DeleteRequest, scope="write"))]
) -> Response:
    """Remove points by their ids, or all that meet a condition. Unknown ids are no error."""
    ids, where = call.body.ids, _filter(call.body.where)

    def work(index: VectorIndex) -> tuple[int, int]:
        collection = index.open(name)
        return collection.delete(ids) if where is None else collection.delete_where(where), collection.count()

    with _naming("ids"):
        deleted, call.service.collections.sizes[name] = await _run(call, work)
    return reply({"deleted": deleted})


@router.post(
    "/{name}/search",
    **operation(SearchResponse, body=SearchRequest, examples=_SEARCH, forms=True, also=(problems.CONFLICT,)),
)
async def search(
    name: Name, call: Annotated[Call[SearchRequest], Depends(accepts(SearchRequest, forms=True))]
) -> Response:
    """Find the points that a text means, that are like an image, or that are nearest to a vector."""
    where = _filter(call.body.where)
    call.count(1)
    collections, deadline = call.service.collections, call.context.deadline
    collection = await collections.open(name, deadline)
    vectors, model = await _vectors(call, collection, [call.body])
    with _naming("vector"), call.step("search index", collection=name):
        hits = await collections.search(collection, vectors[0], call.body.k, where, deadline)
    found = [{"id": hit.id, "score": hit.score, "metadata": _shown(hit.metadata)} for hit in hits]
    return reply({"hits": found, "model": model})


async def _vectors(call: Call[Any], collection: Collection, items: Sequence[Meant]) -> tuple[np.ndarray, str | None]:
    """Vectors (B, E) of items with a text, an image or a vector each, and the name of the model that made any."""
    spec, field = collection.spec, call.body.field
    if call.body.model is not None:
        chosen = call.service.named(call.body.model)
        with _naming("model"):
            same_model(collection, chosen.digest, chosen.name)
    given = {kind: [at for at, item in enumerate(items) if getattr(item, kind) is not None] for kind in KINDS}
    for at in given["vector"]:
        if (width := len(items[at].vector)) != spec.width:
            raise invalid(field(at, "vector"), f"must have {spec.width} numbers as all of this collection, not {width}")
    vectors = np.empty((len(items), spec.width), np.float32)
    vectors[given["vector"]] = np.array([items[at].vector for at in given["vector"]]).reshape(-1, spec.width)
    embedded = [*given["text"], *given["image"]]
    if not embedded:
        return vectors, None
    if not spec.model:
        raise invalid(
            field(embedded[0], "vector"), "must be a vector, in JSON; this collection has no model that embeds"
        )
    with _model_of(call, collection) as model:
        if given["image"]:
            read = (call.image(items[at].image, model, field(at, "image")) for at in given["image"])
            queries = [spec.query or DESCRIBE] * len(given["image"])
            with call.asking(model, "embed_images"):
                vectors[given["image"]] = await model.embed_images(await gather(*read), queries, **call.patience)
        if given["text"]:
            texts = [items[at].text for at in given["text"]]
            with call.asking(model, "embed_texts"):
                vectors[given["text"]] = await model.embed_texts(texts, **call.patience)
        return vectors, model.name


@contextmanager
def _model_of(call: Call[Any], collection: Collection) -> Iterator[Model]:
    """The loaded model that the collection's vectors come from, kept open inside the block."""
    model = _loaded(call.service, collection.spec)
    if model is None:
        raise Problem(
            problems.CONFLICT,
            f"Collection {collection.name!r} holds vectors of {collection.spec.model_name!r} "
            f"({collection.spec.model[:12]}), which is not loaded; load it with POST /v1/models.",
        )
    with model.use():
        yield model


def _loaded(service: Service, spec: CollectionSpec) -> Model | None:
    able = (one for one in service.models.list() if one.digest == spec.model and one.can("embed_texts"))
    return next(able, None)


def _info(service: Service, collection: Collection, points: int) -> dict[str, Any]:
    spec, model = collection.spec, _loaded(service, collection.spec)
    service.collections.sizes[collection.name] = points
    return {
        "name": collection.name,
        "points": points,
        "width": spec.width,
        "distance": spec.distance,
        "model": model.name if model else None,
        "model_name": spec.model_name,
        "model_digest": spec.model,
        "query": spec.query,
    }


async def _run(call: Call[Any], work: Callable[[VectorIndex], Result]) -> Result:
    return await call.service.collections.run(work, call.context.deadline)


async def _on_index(request: Request, work: Callable[[VectorIndex], Result]) -> Result:
    return await service_of(request).collections.run(work, context_of(request.scope).deadline)


@contextmanager
def _naming(field: str) -> Iterator[None]:
    """What the index refuses inside the block is the fault of this field."""
    try:
        yield
    except UserError as error:
        raise invalid(field, str(error)) from None


def _filter(raw: dict[str, Any] | None) -> Filter | None:
    if raw is None:
        return None
    with _naming("where"):
        return from_json(raw)


def _metadata(raw: dict[str, Any], field: str) -> Metadata:
    with _naming(field):
        if private := next((name for name in raw if name.startswith("_")), None):
            raise UserError(f"{private!r}: names with an underscore in front are kept for 'archlab index'")
        return checked_metadata(raw)


def _shown(metadata: Metadata) -> Metadata:
    """Without what `archlab index` notes for itself: paths of this machine are nobody's business."""
    return {name: value for name, value in metadata.items() if not name.startswith("_")}
