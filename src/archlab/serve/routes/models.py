"""`/v1/models`: which checkpoints are loaded; load, replace and unload them while others serve."""

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import Field
from starlette.responses import Response

from archlab.errors import UserError
from archlab.serve import problems
from archlab.serve.calls import Call, Caller, accepts, allowed, reply, service_of
from archlab.serve.model import Model
from archlab.serve.openapi import named, operation
from archlab.serve.opening import Choice
from archlab.serve.problems import Problem, invalid
from archlab.serve.routing import DirectRoute
from archlab.serve.schemas import Answer, Body
from archlab.serve.service import Service
from archlab.serve.settings import WEIGHTS

router = APIRouter(prefix="/v1/models", tags=["models"], route_class=DirectRoute)
Reader = Annotated[Caller, Depends(allowed("read"))]
Admin = Annotated[Caller, Depends(allowed("admin"))]
Name = Annotated[str, named("scenes-vljepa")]


class ModelInfo(Answer):
    """A loaded model; `id`, `object` and `owned_by` are for OpenAI's clients."""

    id: str
    object: Literal["model"]
    owned_by: str
    arm: str = Field(
        description="token or vljepa, which answer about images; encoder, translation, sentiment or characters."
    )
    default: bool = Field(description="Whether it answers where no model is named.")
    backend: str
    image_size: int = Field(description="Side of the images that it reads, in pixels; 0: it reads none.")
    width: int = Field(description="Of its embeddings; 0: it has none.")
    digest: str = Field(description="SHA-256 of its weights.")
    ready: bool


class ModelList(Answer):
    """All loaded models."""

    object: Literal["list"]
    data: list[ModelInfo]


class LoadRequest(Body):
    """A checkpoint to load."""

    name: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    folder: str = Field(
        min_length=1, max_length=1000, description="Shipped, or below a folder of `ARCHLAB_MODEL_ROOTS`."
    )
    backend: Choice = "auto"


_EXAMPLES = {
    "a shipped arm, once more": {"name": "green", "folder": "scenes-vljepa", "backend": "torch"},
}
_MISSING = (problems.NOT_FOUND, problems.NOT_READY)


@router.get("", **operation(ModelList))
async def list_models(request: Request, _: Reader) -> Response:
    """List the loaded models."""
    service = service_of(request)
    return reply({"object": "list", "data": [_info(service, model) for model in service.models.list()]})


@router.get("/{name}", **operation(ModelInfo, also=_MISSING))
async def get_model(name: Name, request: Request, _: Reader) -> Response:
    """Describe a model."""
    service = service_of(request)
    return reply(_info(service, service.named(name)))


@router.get("/{name}/card", response_class=Response, **operation(None, also=_MISSING, media_type="text/markdown"))
async def get_card(name: Name, request: Request, _: Reader) -> Response:
    """The model's card, in Markdown: what it was trained on, and how well it does."""
    return Response(service_of(request).named(name).card, media_type="text/markdown; charset=utf-8")


@router.post("", **operation(ModelInfo, body=LoadRequest, examples=_EXAMPLES, also=(problems.CONFLICT,), status=201))
async def load_model(call: Annotated[Call[LoadRequest], Depends(accepts(LoadRequest, scope="admin"))]) -> Response:
    """Load a checkpoint while the others serve; one of the same name is replaced without a failed request.

    It goes on if you stop waiting; the list of models shows when it is done.
    """
    body, service = call.body, call.service
    names = {model.name for model in service.models.list()} | set(service.models.loading)
    if body.name in service.models.loading:
        raise Problem(problems.CONFLICT, f"Model {body.name!r} is being loaded already.", retry_after=5)
    if len(names | {body.name}) > service.settings.max_models:
        raise Problem(problems.CONFLICT, f"{len(names)} models are loaded, as many as allowed; unload one first.")
    folder = _inside(Path(body.folder), service.settings.model_roots)
    call.context.model = body.name
    try:
        model = await service.finish(service.models.load(body.name, folder, backend=body.backend))
    except UserError as error:
        raise invalid("folder", str(error)) from None
    return reply(_info(service, model), 201)


@router.delete("/{name}", **operation(None, also=_MISSING, status=204))
async def unload_model(name: Annotated[str, named("green")], request: Request, _: Admin) -> Response:
    """Unload a model, once the requests that it has are done."""
    service = service_of(request)
    service.named(name)
    await service.finish(service.unload(name))
    return Response(status_code=204)


@router.put("/{name}/default", **operation(ModelInfo, also=_MISSING))
async def set_default(name: Name, request: Request, _: Admin) -> Response:
    """Make a model the one that answers for its arm where no model is named; requests under way keep theirs."""
    service = service_of(request)
    model = service.named(name)
    service.models.set_default(name)
    return reply(_info(service, model))


def _info(service: Service, model: Model) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "owned_by": "archlab",
        "arm": model.arm,
        "default": service.models.defaults.get(model.arm) == model.name,
        "backend": model.backend,
        "image_size": model.image_size,
        "width": model.width,
        "digest": model.digest,
        "ready": model.ready,
    }


def _inside(folder: Path, roots: tuple[Path, ...]) -> Path:
    """A folder of shipped weights, or one below a root; what else there is on the disk is not told."""
    for root in (WEIGHTS, *roots):
        with suppress(OSError, RuntimeError, ValueError):  # no path at all: too long, a loop of links, a zero byte
            path = (root / folder).resolve()
            if path.is_relative_to(root.resolve()) and path.is_dir():
                return path
    raise invalid("folder", "must be a shipped checkpoint, or a folder below one of ARCHLAB_MODEL_ROOTS")
