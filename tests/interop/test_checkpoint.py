"""Checkpoints go from `transformers` to us and back; what is wrong with one is said in one line."""

import io
import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file
from tests.hub import offer
from transformers import GenerationConfig

from archlab.errors import UserError
from archlab.interop.checkpoint import load_pretrained, locate, save_pretrained
from archlab.interop.parity import encoder_decoding
from archlab.interop.parity.decoding import greedy
from archlab.interop.parity.probes import PROBES
from archlab.interop.parity.twin import build, randomise
from archlab.layers.positions import RotaryEmbedding
from archlab.models.registry import FAMILIES, find

FAMILY = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
DECODER = pytest.mark.parametrize(
    "family",
    [f for f in FAMILIES.values() if f.kind == "decoder"],
    ids=[n for n, f in FAMILIES.items() if f.kind == "decoder"],
)


def made(family):
    model = family.model_class(family.config()).eval()
    randomise(model, torch.Generator().manual_seed(0))
    return model


def probe(family, config):
    return PROBES[family.kind].inputs(config, torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """A checkpoint as `transformers` writes it."""
    folder = tmp_path_factory.mktemp("gpt2")
    build(find("gpt2")).reference.save_pretrained(folder)
    return folder


@pytest.fixture
def copied(gpt2, tmp_path):
    return shutil.copytree(gpt2, tmp_path / "checkpoint")


@FAMILY
def test_what_transformers_saved_is_read_whole_or_in_shards(family, tmp_path):
    twin = build(family)
    inputs = probe(family, twin.config)
    expected = PROBES[family.kind].ours(twin.model, inputs)
    for name, options in (("whole", {}), ("shards", {"max_shard_size": "10KB"})):
        twin.reference.save_pretrained(tmp_path / name, **options)
        assert (tmp_path / name / "model.safetensors.index.json").exists() == (name == "shards")
        model = load_pretrained(tmp_path / name)
        assert (type(model), model.config) == (family.model_class, twin.config)
        assert torch.equal(PROBES[family.kind].ours(model, inputs), expected)


@FAMILY
def test_an_export_loads_in_transformers_and_answers_the_same(family, tmp_path):
    model = made(family)
    save_pretrained(model, tmp_path)
    kind = getattr(transformers, json.loads((tmp_path / "config.json").read_text())["architectures"][0])
    theirs, report = kind.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["unexpected_keys"]
    assert all("pooler" in name for name in report["missing_keys"])
    inputs = probe(family, model.config)
    torch.testing.assert_close(
        PROBES[family.kind].ours(model, inputs), PROBES[family.kind].theirs(theirs, inputs), rtol=1e-4, atol=1e-5
    )
    again = load_pretrained(tmp_path).state_dict()
    assert all(torch.equal(again[name], value) for name, value in model.state_dict().items())


@DECODER
def test_an_export_generates_the_same_tokens(family, tmp_path):
    model = made(family)
    save_pretrained(model, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    tokens = probe(family, model.config)
    settings = GenerationConfig(do_sample=False, max_new_tokens=10, pad_token_id=0)
    expected = theirs.generate(tokens, attention_mask=torch.ones_like(tokens), generation_config=settings)
    assert torch.equal(greedy(model, tokens, 10), expected)


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.kind == "encoder-decoder"])
def test_an_export_translates_to_the_same_tokens(name, tmp_path):
    model = made(FAMILIES[name])
    save_pretrained(model, tmp_path)
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    source = torch.randint(61, (2, 7), generator=torch.Generator().manual_seed(0))
    settings = GenerationConfig(do_sample=False, max_new_tokens=10, pad_token_id=0, decoder_start_token_id=5)
    expected = theirs.generate(source, attention_mask=torch.ones_like(source), generation_config=settings)
    assert torch.equal(encoder_decoding.greedy(model, source, 5, 10), expected)


def test_the_older_format_is_read_without_running_what_it_holds(copied):
    expected = load_pretrained(copied).state_dict()
    tensors = build(find("gpt2")).reference.state_dict()
    (copied / "model.safetensors").unlink()
    torch.save(tensors, copied / "pytorch_model.bin")
    found = load_pretrained(copied).state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    torch.save({"rope": RotaryEmbedding(4)}, copied / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model.bin is damaged"):
        load_pretrained(copied)


def test_the_type_of_the_parameters_can_be_chosen(gpt2):
    assert {p.dtype for p in load_pretrained(gpt2, dtype=torch.bfloat16).parameters()} == {torch.bfloat16}


def test_rotary_frequencies_keep_their_precision_in_any_type(tmp_path):
    """Rounded to bfloat16, they would turn distant tokens by wrong angles."""
    build(find("llama")).reference.save_pretrained(tmp_path)
    narrow, wide = load_pretrained(tmp_path, dtype=torch.bfloat16), load_pretrained(tmp_path)
    assert torch.equal(narrow.rotary.frequencies, wide.rotary.frequencies)


def test_a_checkpoint_is_never_overwritten(gpt2):
    before = (gpt2 / "model.safetensors").read_bytes()
    with pytest.raises(UserError, match=r"holds config.json; name another folder"):
        save_pretrained(made(find("gpt2")), gpt2)
    assert (gpt2 / "model.safetensors").read_bytes() == before


def rewrite(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: cut(folder / "model.safetensors"), "model.safetensors is damaged or cut short"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), "model.safetensors is damaged or cut short"),
        (lambda folder: (folder / "model.safetensors").unlink(), "neither model.safetensors nor pytorch_model.bin"),
        (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is damaged"),
        (lambda folder: (folder / "config.json").write_text("{}"), "names no model_type"),
        (lambda folder: rewrite(folder / "config.json", model_type="mystery"), "model_type 'mystery' is unknown"),
        (lambda folder: rewrite(folder / "config.json", n_layer="three"), "n_layer"),
        (lambda folder: rewrite(folder / "config.json", n_layer=4), r"missing: transformer.h.3"),
        (lambda folder: rewrite(folder / "config.json", n_head=5), "heads=5"),
        (lambda folder: rewrite(folder / "config.json", vocab_size=60), "wrong shape: transformer.wte.weight"),
    ],
)
def test_a_damaged_checkpoint_is_refused_in_one_line(copied, damage, message):
    damage(copied)
    with pytest.raises(UserError, match=message) as caught:
        load_pretrained(copied)
    assert "\n" not in str(caught.value)
    assert str(copied) in str(caught.value)


def test_a_missing_shard_is_named(tmp_path):
    build(find("gpt2")).reference.save_pretrained(tmp_path, max_shard_size="10KB")
    shard = sorted(tmp_path.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(UserError, match=f"{shard.name} is missing"):
        load_pretrained(tmp_path)


PLAIN = "config.json generation_config.json tokenizer_config.json"
OTHERS = ".gitattributes README.md tf_model.h5 flax_model.msgpack rust_model.ot training_args.bin"
REPOSITORIES = {  # files of a repository that are read, and others that would be in vain
    "both formats": (f"{PLAIN} tokenizer.json model.safetensors", "pytorch_model.bin"),
    "both formats in shards": (
        f"{PLAIN} model-00001-of-00002.safetensors model-00002-of-00002.safetensors model.safetensors.index.json "
        "pytorch_model.bin.index.json",
        "pytorch_model-00001-of-00002.bin pytorch_model-00002-of-00002.bin consolidated.safetensors "
        "original/consolidated.00.pth",
    ),
    "opus-mt-en-fr": (f"{PLAIN} pytorch_model.bin source.spm vocab.json", "target.spm"),
    "t5-v1_1-small": (f"{PLAIN} pytorch_model.bin spiece.model special_tokens_map.json", ""),
    "older shards": (
        "config.json pytorch_model-00001-of-00002.bin pytorch_model-00002-of-00002.bin pytorch_model.bin.index.json",
        "original/pytorch_model.bin",
    ),
    "a sentence encoder": (
        f"{PLAIN} 1_Pooling/config.json 2_Dense/model.safetensors modules.json model.safetensors tokenizer.json",
        "2_Dense/pytorch_model.bin pytorch_model.bin onnx/model.onnx",
    ),
}


@pytest.mark.parametrize(("read", "in_vain"), REPOSITORIES.values(), ids=REPOSITORIES)
def test_of_a_repository_exactly_what_is_read_is_downloaded(read, in_vain, tmp_path, monkeypatch):
    repository = dict.fromkeys(f"{read} {in_vain} {OTHERS}".split(), b"")
    folder = locate(offer(repository, tmp_path, monkeypatch))
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == set(read.split())


@pytest.mark.parametrize("older", [False, True])
def test_a_hub_id_is_downloaded_and_read(gpt2, tmp_path, monkeypatch, older):
    files = {path.name: path.read_bytes() for path in gpt2.iterdir()}
    expected = load_pretrained(gpt2).state_dict()
    if older:
        content = io.BytesIO()
        torch.save(load_file(gpt2 / "model.safetensors"), content)
        del files["model.safetensors"]
        files["pytorch_model.bin"] = content.getvalue()
    found = load_pretrained(offer(files, tmp_path, monkeypatch)).state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_hub_that_does_not_answer_is_one_line(monkeypatch):
    def offline(*_, **__):
        raise OSError("no\nnetwork")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(UserError, match=r"someone/gpt2: no such folder, and the hub does not give it \(no\)"):
        load_pretrained("someone/gpt2")
    with pytest.raises(UserError, match="no/such/folder: no such folder"):
        load_pretrained("no/such/folder")
