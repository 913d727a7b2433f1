"""`/docs`: Swagger UI from files of this machine; the page asks nobody else for anything."""

from html import escape
from pathlib import Path

import fastapi_offline
from fastapi import APIRouter, Request
from starlette.responses import FileResponse, HTMLResponse, Response

from archlab.serve import problems
from archlab.serve.problems import Problem

STATIC = Path(fastapi_offline.__file__).parent / "static"
_FILES = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "favicon.png": "image/png",
}
_START = """\
window.onload = () => SwaggerUIBundle({
  url: document.body.dataset.document, dom_id: "#docs", deepLinking: true, tryItOutEnabled: true,
  persistAuthorization: false, validatorUrl: null,
});
"""
_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<link rel="icon" href="{root}/docs/favicon.png">
<link rel="stylesheet" href="{root}/docs/swagger-ui.css">
<script src="{root}/docs/swagger-ui-bundle.js"></script>
<script src="{root}/docs/start.js"></script>
</head>
<body data-document="{root}/openapi.json"><div id="docs"></div></body>
</html>
"""
_CACHED = {"Cache-Control": "public, max-age=86400"}

router = APIRouter(include_in_schema=False)


@router.get("/docs")
async def page(request: Request) -> Response:
    """The page."""
    root = escape(request.scope.get("root_path", ""), quote=True)
    return HTMLResponse(_PAGE.format(title=escape(request.app.title), root=root))


@router.get("/docs/start.js")
async def start() -> Response:
    """What starts Swagger UI; apart from the page, whose policy allows no script inside it."""
    return Response(_START, media_type="text/javascript", headers=_CACHED)


@router.get("/docs/{name}")
async def static(name: str) -> Response:
    """Its files."""
    if name not in _FILES:
        raise Problem(problems.NOT_FOUND, "There is no such file.")
    return FileResponse(STATIC / name, media_type=_FILES[name], headers=_CACHED)
