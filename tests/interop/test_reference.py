from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.checkpoints import save_text_encoder, save_twin

from archlab.errors import UserError
from archlab.interop.checkpoint import locate
from archlab.interop.reference import digest_of, shape_of
from archlab.models.registry import find


def test_the_digest_changes_with_every_file_that_answers_depend_on(tmp_path: Path) -> None:
    save_text_encoder("bert", tmp_path, dense=(8,))
    seen = {digest_of(tmp_path)}
    assert digest_of(tmp_path) in seen
    for name in ("config.json", "tokenizer.json", "1_Pooling/config.json"):
        path = tmp_path / name
        path.write_text(json.dumps(json.loads(path.read_text()), indent=3))
        seen.add(digest_of(tmp_path))
    for path in (tmp_path / "model.safetensors", tmp_path / "2_Dense" / "model.safetensors"):
        path.write_bytes(path.read_bytes()[:-1] + b"\0")
        seen.add(digest_of(tmp_path))
    assert len(seen) == 6
    (tmp_path / "README.md").write_text("nothing of this is read")
    assert digest_of(tmp_path) in seen


def test_the_shape_of_a_published_model_is_known_without_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    for source, family, width in (
        ("meta-llama/Llama-3.2-1B", "llama", 2048),
        ("google/embeddinggemma-300m", "gemma", 768),
        ("facebook/dinov2-base", "dinov2", 768),
    ):
        found, config = shape_of(source)
        assert found.name == family
        assert getattr(config, "transformer", config).width == width


def test_a_name_of_someone_else_is_no_published_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_twin("llama", tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path))
    assert shape_of("someone/Llama-3.2-1B")[1] == find("llama").config()


def test_a_folder_tells_its_own_shape(tmp_path: Path) -> None:
    save_twin("bert", tmp_path)
    assert shape_of(str(tmp_path)) == (find("bert"), find("bert").config())


def test_a_folder_of_an_installed_package_is_found_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "brings_weights"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert locate("package:brings_weights/model") == package / "model"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("package:not_there_at_all/model", "the Python package 'not_there_at_all' is not installed"),
        ("package:archlab/no/such", "the Python package 'archlab' has no folder 'no/such'"),
        ("package:../archlab", "is not installed"),
    ],
)
def test_a_package_that_brings_no_such_folder_is_refused(source: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        locate(source)
