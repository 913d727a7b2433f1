"""Routes that FastAPI describes and that answer by themselves."""

from __future__ import annotations

from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send


class DirectRoute(APIRoute):
    """A route whose endpoint takes names of its path, the request, and what dependencies make of the request.

    FastAPI's way to validate what any endpoint could take, and to close it afterwards, costs more than the endpoint's
    own work on a search. Here nothing is left to validate or to close: each dependency is a coroutine function of the
    request alone, and the endpoint makes the response.

    Raises:
        TypeError: the endpoint takes anything else.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.app = self._answering()

    def _answering(self) -> ASGIApp:
        asked, endpoint = self.dependant, self.endpoint
        names = [param.name for param in asked.path_params]
        makers = {one.name: one.call for one in asked.dependencies}
        named = asked.request_param_name
        if unknown := set(endpoint.__annotations__) - {*names, *makers, named, "return"}:
            raise TypeError(f"{self.path}: takes {', '.join(sorted(unknown))}, which no direct route has")

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            request = Request(scope, receive, send)
            values: dict[Any, Any] = {name: request.path_params[name] for name in names}
            if named is not None:
                values[named] = request
            for name, make in makers.items():
                values[name] = await make(request)  # type: ignore[misc]
            response: Response = await endpoint(**values)
            await response(scope, receive, send)

        return answer
