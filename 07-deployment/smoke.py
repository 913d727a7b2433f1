"""Does an installation work? `python 07-deployment/smoke.py URL KEY [--search] [--prometheus URL] [--grafana URL]`

Waits until the service is ready and asks it one question about an image; with `--search` it finds that image, too.
Needs Python alone, so that it runs anywhere: after `docker compose up`, in continuous integration, or outside, where
somebody says that it does not work.
"""

import argparse
import json
import struct
import sys
import time
import zlib
from base64 import b64encode
from collections.abc import Callable, Sequence
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

COLLECTION = "smoke-test"


def red_square(side: int = 64) -> bytes:
    """A PNG."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + b"\xff\0\0" * side) * side
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def ask(url: str, body: Any = None, key: str = "", method: str | None = None) -> tuple[int, Any]:
    """Status and JSON of an answer; 0 and the reason where there is none. A refusal may be a text, as of a proxy.

    Without a method it is POST where there is a body, and else GET.
    """
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    data = None if body is None else json.dumps(body).encode()
    try:
        with urlopen(Request(url, data, headers, method=method), timeout=60) as answer:
            return answer.status, json.loads(answer.read() or b"null")
    except HTTPError as error:
        told = error.read().decode(errors="replace")
        try:
            return error.code, json.loads(told)
        except ValueError:
            return error.code, told
    except (HTTPException, OSError, ValueError) as error:  # URLError is an OSError
        return 0, str(error)


def wait(what: str, check: Callable[[], tuple[bool, Any]], seconds: float) -> None:
    """Until a check passes; its last answer is told where it never does."""
    end = time.monotonic() + seconds
    while not (passed := check())[0]:
        if time.monotonic() > end:
            sys.exit(f"{what}: not within {seconds:.0f} seconds; last answer: {passed[1]}")
        time.sleep(1)
    print(f"{what}: yes")


def search(service: str, key: str, seconds: float) -> None:
    """Make a collection, put an image and a text into it, find the image again, and remove the collection."""
    image, place = b64encode(red_square()).decode(), f"{service}/v1/collections/{COLLECTION}"

    def made() -> tuple[bool, Any]:  # the server that the index lies on may not be up yet
        found = ask(f"{service}/v1/collections", {"name": COLLECTION}, key)
        return found[0] in (201, 409), found

    def done(what: str, answer: tuple[int, Any], status: int = 200) -> Any:
        if answer[0] != status:
            sys.exit(f"{what}: status {answer[0]}; {answer[1]}")
        return answer[1]

    wait("a collection", made, seconds)
    points = [{"id": "image", "image": image, "metadata": {"kind": "image"}}, {"id": "text", "text": "a blue circle"}]
    done("points", ask(f"{place}/points", {"points": points}, key, "PUT"))
    for asked in ({"image": image}, {"text": "a red square", "where": {"field": "kind", "equals": "image"}}):
        hits = done("a search", ask(f"{place}/search", {**asked, "k": 1}, key))["hits"]
        if [hit["id"] for hit in hits] != ["image"]:
            sys.exit(f"a search by {next(iter(asked))}: must find the image, not {hits}")
    done("removing the collection", ask(place, key=key, method="DELETE"), 204)
    print("searches: yes")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; it ends with 1 and one line where something does not work."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="of the service")
    parser.add_argument("key", help="an API key with the scope read; '' where the service has no keys")
    parser.add_argument("--search", action="store_true", help="try collections; the key needs the scope write too")
    parser.add_argument("--prometheus", metavar="URL")
    parser.add_argument("--grafana", metavar="URL")
    parser.add_argument("--seconds", type=float, default=300, help="to wait for each; default: 300")
    options = parser.parse_args(arguments)
    service, seconds = options.url.rstrip("/"), options.seconds

    def answers(url: str) -> Callable[[], tuple[bool, Any]]:
        return lambda: ((found := ask(url))[0] == 200, found)

    wait("alive", answers(f"{service}/healthz"), seconds)
    wait("ready", answers(f"{service}/readyz"), seconds)
    question = {"image": b64encode(red_square()).decode(), "question": "what colour is it"}
    if options.key and (found := ask(f"{service}/v1/answer", question))[0] != 401:
        sys.exit(f"without a key: must be refused with 401, not {found}")
    status, answer = ask(f"{service}/v1/answer", question, options.key)
    if status != 200:
        sys.exit(f"a question: status {status}; {answer}")
    print(f"answers: {answer['answer']!r}")
    if options.search:
        search(service, options.key, seconds)
    if options.prometheus:
        query = f"{options.prometheus}/api/v1/query?query={quote('sum(archlab_ready) > 0')}"
        wait("scraped", lambda: (bool((found := ask(query))[0] == 200 and found[1]["data"]["result"]), found), seconds)
    if options.grafana:
        tagged = f"{options.grafana}/api/search?tag=archlab"
        wait("dashboards", lambda: (bool((found := ask(tagged))[0] == 200 and found[1]), found), seconds)


if __name__ == "__main__":
    main()
