from __future__ import annotations

import json
import subprocess
import sys
from io import BytesIO
from typing import get_args

from PIL import Image

from archlab.bench.serve import workload
from archlab.data.images import decode


def test_no_text_comes_twice_and_every_run_asks_for_the_same() -> None:
    texts = workload.captions(2000, seed=1)
    assert len(set(texts)) == len(texts) == 2000
    assert workload.captions(2000, seed=1) == texts
    assert set(workload.captions(2000, seed=2)) != set(texts)
    assert {len(text) > 32 for text in texts} == {True, False}  # several lengths, as people ask


def test_pictures_are_jpeg_files_that_a_model_can_read() -> None:
    first, second = workload.pictures(2)
    assert first != second
    assert Image.open(BytesIO(first)).format == "JPEG"
    assert Image.open(BytesIO(first)).size == (workload.SIDE, workload.SIDE)
    assert decode(first, 16, max_pixels=10**6).shape == (16, 16, 3)


def test_bodies_name_a_model_only_where_one_is_asked_for() -> None:
    assert json.loads(workload.search_body('a "red" circle')) == {"text": 'a "red" circle', "k": 10}
    asked = json.loads(workload.classify_body(b"jpeg", "mine"))
    assert (asked["model"], asked["image"], len(asked["labels"])) == ("mine", "anBlZw==", 8)
    assert json.loads(workload.caption_body(b"jpeg")) == {"image": "anBlZw=="}


def test_every_body_is_a_line_of_its_own_and_none_comes_twice() -> None:
    counts = {"search": 20_000, "popular": 64, "classify": 16, "caption": 16}
    for kind in get_args(workload.Kind):
        bodies = workload.bodies(kind, "mine")
        assert len(set(bodies)) == len(bodies) == counts[kind]
        assert all(body.splitlines() == [body] for body in bodies)
    assert json.loads(workload.bodies("classify", "mine")[0])["model"] == "mine"
    assert "model" not in json.loads(workload.bodies("classify")[0])


def test_where_only_load_is_generated_nothing_imports_pytorch() -> None:
    code = "import sys, archlab.bench.serve.users; print({'torch', 'transformers', 'fastapi'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
