"""Watch frames with a running service: `python 06-production/watch.py FOLDER | CLIP | --drawn N` prints texts."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from PIL import Image
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect


def drawn(count: int) -> Iterator[bytes]:
    """Frames of a stream of the built-in scenes, as PNG."""
    from archlab.config import DataConfig
    from archlab.data.streams import StreamConfig, stream_source

    (stream,) = stream_source(DataConfig(), 64)(StreamConfig(frames=count), "test", 1)
    for pixels in stream.draw(0, stream.frames):
        file = BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        yield file.getvalue()


def filmed(clip: Path, rate: float) -> Iterator[bytes]:
    """So many frames per second of a clip, as PNG; the next is decoded when it is asked for."""
    from archlab.data.clips import stream_clip

    for _, pixels in stream_clip(clip, 256, rate, max_pixels=50_000_000):
        file = BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        yield file.getvalue()


def watch(url: str, frames: Iterator[bytes], asked: dict[str, object], key: str | None) -> Iterator[dict[str, object]]:
    """Messages of the service, while frames are sent as its credit allows."""
    headers = {"Authorization": f"Bearer {key}"} if key else None
    with connect(url, additional_headers=headers, compression=None) as socket:
        socket.send(json.dumps(asked))
        sent, done, credit, finished = 0, 0, 0, False
        try:
            while True:
                message = json.loads(socket.recv())
                yield message
                credit, done = message.get("credit", credit), message.get("frames", done)
                while credit and not finished and sent - done < credit:
                    frame = next(frames, None)
                    socket.send(json.dumps({"type": "finish"}) if frame is None else frame)
                    sent, finished = sent + 1, frame is None
        except ConnectionClosed:
            return


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("place", type=Path, nargs="?", help="a clip, or a folder of images in the order of their names")
    source.add_argument("--drawn", type=int, metavar="N", help="N frames of a drawn scene instead")
    parser.add_argument("--rate", type=float, default=2.0, help="frames per second of a clip")
    parser.add_argument("--url", default="ws://127.0.0.1:8000/v1/stream")
    parser.add_argument("--query", default="describe the picture")
    parser.add_argument("--threshold", type=float, default=0.5)
    options = parser.parse_args()
    if options.drawn:
        frames = drawn(options.drawn)
    elif options.place.is_file():
        frames = filmed(options.place, options.rate)
    else:
        frames = (path.read_bytes() for path in sorted(options.place.iterdir()) if path.is_file())
    asked = {"query": options.query, "threshold": options.threshold}
    for message in watch(options.url, frames, asked, os.environ.get("ARCHLAB_KEY")):
        match message:
            case {"type": "segment", "start": {"frame": frame, "timestamp": seconds}, "text": text}:
                print(f"{frame:6} {seconds:8.2f} s  {text}", flush=True)
            case {"type": "problem", "frame": frame, "problem": {"detail": detail}}:
                print(f"{frame if frame is not None else '':6} {detail}", flush=True)
            case {"type": "end", "frames": count, "decodes": decodes}:
                print(f"{count} frames, {decodes} decodes")


if __name__ == "__main__":
    main()
