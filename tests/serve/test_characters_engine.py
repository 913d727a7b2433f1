"""A model of characters continues texts as `archlab generate` does; what it cannot read is refused by field."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.serve.holding import run
from tests.serve.live import problem

from archlab.cli import main
from archlab.errors import UserError
from archlab.generate.settings import Settings
from archlab.serve.computing import Computer, EngineThread
from archlab.serve.engine_process import open_isolated
from archlab.serve.opening import open_engine

ASK = {"prompt": "To be", "max_tokens": 30, "temperature": 1.5, "seed": 3}


def complete(client: httpx.Client, **others: Any) -> str:
    answer = client.post("/v1/completions", json=ASK | others)
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["choices"][0]["text"]
    return text


def test_it_writes_what_the_command_line_writes(
    client: httpx.Client, text_run: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    options = ["--max-new-tokens", "30", "--temperature", "1.5", "--top-p", "0.9", "--seed", "3"]
    assert main(["generate", "--model", str(text_run("characters")), "To be", *options]) == 0
    assert complete(client, top_p=0.9) == capsys.readouterr().out[:-1]


def test_a_seed_repeats_a_text_and_without_one_each_is_another(client: httpx.Client) -> None:
    assert complete(client) == complete(client)
    assert len({complete(client, seed=None) for _ in range(5)}) > 1


def test_streams_that_are_decoded_side_by_side_are_those_alone(client: httpx.Client) -> None:
    alone = [complete(client, seed=seed) for seed in range(6)]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda seed: complete(client, seed=seed), range(6))) == alone


@pytest.mark.parametrize(
    ("given", "field", "rule"),
    [
        ({"prompt": "To be?"}, "prompt", "must hold no '?'"),
        ({"prompt": "b" * 65}, "prompt", "must have at most 64 characters"),
        ({"prompt": "b" * 60, "max_tokens": 6}, "max_tokens", "must be at most 5 after this prompt"),
        ({"prompt": ""}, "prompt", "at least 1 character"),
        ({"stop": [""]}, "stop[0]", "at least 1 character"),
        ({"model": "scenes-token"}, "model", "must be able to complete, as characters can"),
    ],
)
def test_what_it_cannot_do_is_refused_with_its_field(
    client: httpx.Client, given: dict[str, Any], field: str, rule: str
) -> None:
    (error,) = problem(client.post("/v1/completions", json=ASK | given), "invalid")["errors"]
    assert error["field"] == field
    assert rule in error["rule"]


def test_all_that_it_reads_may_be_asked_for(client: httpx.Client) -> None:
    assert len(complete(client, prompt="b" * 60, max_tokens=5)) == 5
    assert len(complete(client, prompt="b" * 60, max_tokens=None)) == 5


def test_in_a_process_of_its_own_it_writes_the_same(text_run: Callable[[str], Path]) -> None:
    ours, settings = EngineThread(open_engine(text_run("characters"))), Settings(max_new_tokens=9)
    columns: list[Any] = [["To", "be"], [settings] * 2, [(), ()]]

    async def written(computer: Computer) -> list[str]:
        streams, texts = await computer.ask("complete", columns), ["", ""]
        while all(pieces := await computer.ask("advance", [streams])):
            texts = [text + piece for text, piece in zip(texts, pieces, strict=True)]
        await computer.close()
        return texts

    async def main() -> None:
        theirs = await asyncio.to_thread(open_isolated, text_run("characters"))
        texts = await written(theirs)
        assert [len(text) for text in texts] == [9, 9]
        assert texts == await written(ours)

    run(main)


def test_a_caption_is_not_asked_of_it(client: httpx.Client) -> None:
    body = {"image": "aGk=", "stream": True, "model": "characters"}
    problem(client.post("/v1/caption", json=body), "invalid")


def test_it_is_served_in_torch(text_run: Callable[[str], Path]) -> None:
    with pytest.raises(UserError, match="runs of characters are served in torch"):
        open_engine(text_run("characters"), "onnx")
    open_engine(text_run("characters")).probe()
