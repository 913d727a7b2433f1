"""Plain ASGI middleware. Starlette's `BaseHTTPMiddleware` would cost three quarters of the throughput."""
