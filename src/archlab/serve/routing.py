"""Routes that FastAPI describes and Starlette runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import request_response


class DirectRoute(APIRoute):
    """A route whose endpoint takes names of its path, and what `calls` makes of the request.

    Nothing is left for FastAPI to validate or to close then, whose ways to do both for any endpoint cost more than the
    endpoint's own on a search. An endpoint that takes anything else is refused when the application is made.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.app = request_response(self._directly())

    def _directly(self) -> Callable[[Request], Awaitable[Response]]:
        asked, endpoint = self.dependant, self.endpoint
        names = [param.name for param in asked.path_params]
        makers = {one.name: one.call for one in asked.dependencies}
        request_name = asked.request_param_name
        known = {*names, *makers, request_name} - {None}
        if unknown := set(self.endpoint.__annotations__) - known - {"return"}:
            raise TypeError(f"{self.path}: takes {', '.join(sorted(unknown))}, which no direct route has")

        async def answer(request: Request) -> Response:
            values: dict[str, Any] = {name: request.path_params[name] for name in names}
            if request_name is not None:
                values[request_name] = request
            for name, make in makers.items():
                values[name] = await make(request)  # type: ignore[misc, index]
            response: Response = await endpoint(**values)
            return response

        return answer
