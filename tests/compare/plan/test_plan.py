"""A plan's numbers: parameters of the paper's table, memory as the allocator measures it, operations as counted."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.checkpoints import WORDS, save_language_model, save_text_encoder, save_vision

from archlab.cli import main
from archlab.compare.flops import BatchShape, Sizes, counted_flops
from archlab.compare.memory import peak_allocation
from archlab.compare.plan.encoder import encoder_needs
from archlab.compare.plan.footprint import footprint
from archlab.compare.plan.hardware import GPUS, Gpu, find_gpu
from archlab.config import (
    CompareConfig,
    EmbeddingArmConfig,
    EncoderConfig,
    RunConfig,
    TransformerConfig,
    load,
    read_yaml,
)
from archlab.data.batch import Batch
from archlab.data.sources import load_dataset
from archlab.errors import UserError
from archlab.train.loop import fit
from archlab.train.recipes import load_recipe
from archlab.train.run import build_objective, build_optimizer
from archlab.vl.arms import build_arm
from archlab.vl.x_encoder import open_encoder

PRESETS = Path(__file__).parents[3] / "src" / "archlab" / "compare" / "presets"


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))


@pytest.fixture(scope="module")
def paper() -> dict[str, Any]:
    """Of the preset `paper`, what `footprint` counts for VL-JEPA, with the encoder, without any file of the models."""
    run = load(PRESETS / "paper.yaml", CompareConfig).run
    encoder = encoder_needs(run.encoder)
    shape = BatchShape(128, encoder.tokens, run.tokenizer.max_query, run.tokenizer.max_target)
    needs = footprint(replace(run, arm="vljepa"), Sizes(encoder.width, 128256, 1), shape, 8)
    return {"run": run, "encoder": encoder, "needs": needs}


def test_the_parts_of_the_paper_have_the_papers_parameters(paper: dict[str, Any]) -> None:
    """Section 3.1: V-JEPA 2 ViT-L 304M, predictor 490M trainable, EmbeddingGemma 300M, 1536 dimensions."""
    parts, table = paper["needs"].parts, 128256 * 2048
    assert paper["encoder"].parameters == pytest.approx(304e6, rel=0.005)
    predictor = parts["backbone"] - table + parts["head"]
    assert predictor == pytest.approx(490e6, rel=0.01)
    assert parts["target_encoder"] == pytest.approx(300e6, rel=0.02)
    assert paper["needs"].trainable == predictor + parts["target_encoder"] + parts["decoder"]
    assert parts["head"] == (2048 + 1) * 1536


def test_the_papers_encoder_sees_256_tokens_of_an_image(paper: dict[str, Any]) -> None:
    encoder = paper["encoder"]
    assert (encoder.tokens, encoder.width, encoder.cached_bytes) == (256, 1024, 2 * 256 * 1024)
    weights = 24 * 12 * 1024**2 + 1024 * 3 * 2 * 16 * 16
    attention = 24 * 4 * 256**2 * 1024
    assert encoder.flops == 2 * 256 * weights + attention


def test_needs_are_those_of_the_encoder_itself(tmp_path: Path) -> None:
    for name in ("vjepa", "dinov2"):
        save_vision(name, tmp_path / name)
        config = EncoderConfig(weights=str(tmp_path / name), tokens=4)
        encoder, needs = open_encoder(config), encoder_needs(config)
        assert (needs.tokens, needs.width) == (encoder.tokens, encoder.width)
        assert needs.parameters == sum(parameter.numel() for parameter in encoder.model.parameters())
        image = torch.zeros(1, 32, 32, 3, dtype=torch.uint8)
        assert needs.flops == counted_flops(lambda encoder=encoder, image=image: encoder.encode(image))


@pytest.mark.parametrize("name", ["vit", "vjepa"])
def test_a_plan_of_clips_counts_all_their_frames(name: str, tmp_path: Path) -> None:
    save_vision(name, tmp_path)
    config = EncoderConfig(weights=str(tmp_path))
    encoder, needs = open_encoder(config, 8), encoder_needs(config, 8)
    assert (needs.tokens, needs.width) == (encoder.tokens, encoder.width)
    clip = torch.zeros(1, 8, 32, 32, 3, dtype=torch.uint8)
    assert needs.flops == counted_flops(lambda: encoder.encode(clip))


def test_a_plan_of_clips_knows_published_encoders() -> None:
    for weights, moments in (("facebook/dinov2-small", 8), ("facebook/vjepa2-vitl-fpc64-256", 4)):
        still, clip = (encoder_needs(EncoderConfig(weights=weights), frames) for frames in (0, 8))
        assert (clip.tokens, clip.width, clip.parameters) == (4 * moments, still.width + 4, still.parameters)
        assert clip.flops >= 0.9 * moments * still.flops


SIZE = TransformerConfig(width=64, depth=3, heads=4, feed_forward=176)
SMALL = RunConfig(trunk=SIZE, vljepa=EmbeddingArmConfig(embedding=64, target=SIZE, decoder=SIZE))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("arm", ["token", "vljepa"])
def test_planned_memory_is_what_training_takes(arm: Any, precision: Any) -> None:
    """Measured by the allocator, beyond the weights, over two steps; kernels and the loop take a little themselves."""
    run = replace(SMALL, arm=arm, optimizer=replace(SMALL.optimizer, precision=precision))
    shape, sizes = BatchShape(32, 16, 24, 32), Sizes(48, 500, 1)
    model, objective = build_arm(run, 48, 500, 1), build_objective(run)
    query, target = (torch.zeros(32, length, dtype=torch.long) for length in (24, 32))
    ids = torch.arange(32)
    batch = Batch(
        torch.zeros(32, 16, 48),
        query,
        torch.ones_like(query).bool(),
        target,
        torch.ones_like(target).bool(),
        ids,
        ids,
        [],
    )

    def train() -> None:
        fit(
            model,
            objective,
            lambda _: batch,
            build_optimizer(run, model, objective),
            steps=2,
            schedule=lambda _: 1e-3,
            precision=precision,
        )

    measured = peak_allocation(train, torch.device("cpu"))
    planned = footprint(run, sizes, shape, 1).bytes_on_each(1, 0, sharded=False)
    del planned["weights"]  # there before
    assert measured == pytest.approx(sum(planned.values()), rel=0.3)
    assert planned["activations"] > 0.5 * measured


def test_devices_share_the_batch_and_if_sharded_the_state() -> None:
    shape, sizes = BatchShape(32, 16, 24, 32), Sizes(48, 500, 1)
    alone, four = (footprint(SMALL, sizes, shape, devices) for devices in (1, 4))
    assert four.flops == alone.flops
    assert four.saved == pytest.approx(alone.saved / 4, rel=0.05)
    whole, split = (four.bytes_on_each(4, 1000, sharded=sharded) for sharded in (False, True))
    assert whole["optimiser"] == whole["gradients"] == 8 * four.trainable == 4 * split["optimiser"]
    assert alone.bytes_on_each(1, 1000, sharded=False)["gradients"] == 4 * four.trainable  # no buckets of DDP's
    assert split["gradients"] == four.trainable
    assert split["weights"] == four.parameters + 4 * (four.outside + 2 * four.largest_layer)
    assert whole["X-encoder"] == split["X-encoder"] == 4000
    for saved in (0, 10**9):  # while the first device evaluates it whole, there are no activations
        kept = [replace(four, saved=saved).bytes_on_each(4, 0, sharded=way)["activations"] for way in (False, True)]
        assert kept == [saved, max(saved, 4 * four.parameters)]
    assert four.outside == four.parameters - 9 * four.largest_layer  # trunk, target encoder, decoder: three blocks each
    assert four.largest_layer == 4 * 64**2 + 3 * 64 * 176 + 2 * 64


def test_pretrained_parts_in_folders_are_planned(tmp_path: Path) -> None:
    save_language_model(tmp_path / "llama", WORDS)
    save_text_encoder("bert", tmp_path / "text")
    own = replace(SMALL.vljepa, target_weights=str(tmp_path / "text"))
    language = replace(SMALL.language, weights=str(tmp_path / "llama"), layers=2)
    run = replace(SMALL, trunk=TransformerConfig(), language=language, vljepa=own)
    needs = footprint(run, Sizes(48, 280, 1), BatchShape(8, 4, 6, 8), 1)
    model = build_arm(run, 48, 280, 1)
    assert needs.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert needs.trainable == sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("preset", [path.stem for path in sorted(PRESETS.glob("*.yaml"))])
def test_every_preset_can_be_planned(preset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["plan", "--preset", preset, "--gpus", "16", "--gpu", "H200", "--out", str(tmp_path)]
    assert main([*arguments, "run.tokenizer.max_query=20", "run.tokenizer.max_target=20"]) == 0
    shown = capsys.readouterr().out
    plan = json.loads((tmp_path / "plan.json").read_text())
    hardware = {"gpus": 16, "utilization": 0.4}
    assert hardware.items() <= plan["hardware"].items()
    encoder = plan["encoder"]  # which each of both machines does for itself
    assert encoder["seconds"] == pytest.approx(encoder["flops"] * encoder["images"] / (8 * 0.4 * 67e12))
    for arm, needs in plan["arms"].items():
        assert needs["seconds"] == pytest.approx(needs["flops"] * needs["steps"] / _rate(preset, 16))
        recipe, run = load_recipe(tmp_path / f"{arm}.yaml")
        assert (recipe.function, run.arm) == ("_train_arm", arm)
        command = (
            "torchrun --nproc-per-node 8 --nnodes 2 --rdzv-backend c10d --rdzv-endpoint HOST:29500 -m archlab train"
        )
        assert f"{command} {tmp_path / arm}.yaml --out runs/{preset}/{arm}-0 seed=0" in shown
        commands = [line for line in shown.splitlines() if f"{tmp_path / arm}.yaml" in line]
        assert sum(_steps(line, run) for line in commands) == needs["steps"]
    assert (tmp_path / "plan.md").read_text().endswith(shown)


def _steps(command: str, run: RunConfig) -> int:
    given = re.search(r"optimizer\.steps=(\d+)", command)
    return int(given[1]) if given else run.optimizer.steps


def test_every_run_that_is_counted_has_a_command_and_what_it_changes_can_be_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = ["seeds=[4, 5]", "learning_rates=[0.001, 0.002]", "sweep_steps=10", "trained_blind=true"]
    assert main(["plan", "--preset", "quick", "--out", str(tmp_path), *changes]) == 0
    shown = capsys.readouterr().out
    assert "# BEST is the rate of the trial" in shown
    folders, found = [], []
    for line in shown.splitlines():
        if line.startswith("archlab train"):
            _, _, recipe, _, folder, *overrides = shlex.split(line.replace("BEST", "0.5"))
            folders.append(folder.removeprefix("runs/quick/"))
            found.append(load_recipe(Path(recipe), overrides)[1])
    names = ["sweep/{}-0.001", "sweep/{}-0.002", "{}-4", "{}-5", "{}-blind-4"]
    assert folders == [name.format(arm) for arm in ("token", "vljepa") for name in names]
    for arm in (found[:5], found[5:]):
        assert [run.seed for run in arm] == [4, 4, 4, 5, 4]
        assert [run.optimizer.learning_rate for run in arm] == [0.001, 0.002, 0.5, 0.5, 0.5]
        assert [run.blind for run in arm] == [False] * 4 + [True]
        assert [run.optimizer.steps == 10 for run in arm] == [True, True, False, False, False]
        assert [run.evaluation.first_checkpoint == 10 for run in arm] == [True, True, False, False, False]


def test_arms_are_sharded_where_only_that_fits_and_what_does_not_fit_gets_no_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def commands(gib: float) -> str:
        rows = f"mine: {{name: Mine, memory: {gib:.6f}, bfloat16: 1, float32: 1}}\n"
        (tmp_path / "gpus.yaml").write_text(rows)
        asked = ["--gpus", "8", "--gpu", "mine", "--hardware", str(tmp_path / "gpus.yaml"), "run.trunk.width=512"]
        assert main(["plan", "--preset", "quick", "--out", str(tmp_path), *asked]) == 0
        return capsys.readouterr().out

    commands(1.0)
    memory = json.loads((tmp_path / "plan.json").read_text())["arms"]["vljepa"]["memory"]
    whole, split = (sum(memory[way].values()) / 2**30 / 0.9 for way in ("replicated", "sharded"))
    assert split < whole
    assert "vljepa-0 seed=0\n" in commands(whole * 1.001)
    assert "vljepa-0 seed=0 parallel=fsdp\n" in commands(whole * 0.999)
    shown = commands(split * 0.999)
    assert "# vljepa does not fit" in shown
    assert "vljepa-0" not in shown


def test_the_preset_of_the_paper_states_what_it_assumes_and_its_commands_train_on_no_other_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "--gpus", "8", "--out", str(tmp_path)]) == 0
    shown, plan = capsys.readouterr().out, json.loads((tmp_path / "plan.json").read_text())
    samples = 117188 * 128
    assert plan["encoder"]["images"] == samples
    assert f"{samples:,} of them" in shown
    assert "How many there are in data.source=YOUR-DATA is not known here: assumed is one for each sample" in shown
    # In float32, whatever the arms are trained in.
    assert plan["encoder"]["seconds"] == pytest.approx(plan["encoder"]["flops"] * samples / (8 * 0.4 * 67e12))
    run = load_recipe(tmp_path / "vljepa.yaml")[1]
    with pytest.raises(UserError, match=r"data\.source='YOUR-DATA': is no known set, no file or folder"):
        load_dataset(run.data, 64)
    paper = {line.split(" | ")[0].strip("| "): line.split(" | ")[-1].strip("| ") for line in shown.splitlines()}
    assert paper["X-encoder, frozen"] == "304 M"
    assert paper["backbone and head without the token table"] == "490 M"
    assert paper["target encoder"] == "300 M"
    assert "parts add up to 1.09 G; what the rest of its 1.60 G is, it does not say" in shown


def test_images_that_the_configuration_counts_are_not_assumed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--preset", "quick", "run.data.scenes.train_images=77"]) == 0
    shown = capsys.readouterr().out
    assert "77 of them" in shown
    assert "is not known" not in shown
    assert "the paper's" not in shown


def _rate(preset: str, gpus: int) -> float:
    precision = load(PRESETS / f"{preset}.yaml", CompareConfig).run.optimizer.precision
    return gpus * 0.4 * find_gpu("h200").peak(precision)


def test_one_device_needs_no_launcher(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--preset", "quick", "seeds=[3]"]) == 0
    shown = capsys.readouterr().out
    assert "archlab train plans/quick/token.yaml --out runs/quick/token-3 seed=3" in shown
    assert "torchrun" not in shown


def test_what_does_not_fit_is_said_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "gpus.yaml").write_text("tiny: {name: Tiny, memory: 0.01, bfloat16: 1, float32: 1}\n")
    asked = ["plan", "--preset", "quick", "--hardware", str(tmp_path / "gpus.yaml"), "--gpu", "tiny"]
    assert main(asked) == 0
    assert "| fits, 10% left free | no | no |" in capsys.readouterr().out


def test_every_processor_in_the_file_is_valid() -> None:
    for name in read_yaml(GPUS):
        assert isinstance(find_gpu(name), Gpu)
    assert find_gpu("H100").peak("bfloat16") == 989e12
    assert find_gpu("H100").peak("float32") == 67e12
    assert "2026-" in GPUS.read_text()  # when it was read


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("h100: {name: X, memory: -1, bfloat16: 1, float32: 1}", "memory=-1.0: must be positive"),
        ("h100: {name: X, memory: 1, bfloat: 1, float32: 1}", "did you mean 'bfloat16'"),
        ("h100: {name: X}", 'h100: missing value for field "memory"'),
        ("h100: fast", "must be a mapping"),
        ("h200: {name: X, memory: 1, bfloat16: 1, float32: 1}", "--gpu 'h100': is unknown; did you mean 'h200'"),
        ("{}", "--gpu 'h100': is unknown"),
    ],
)
def test_a_file_of_processors_has_its_rules(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "gpus.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        find_gpu("h100", path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpus", "0"], "--gpus 0: must be at least 1"),
        (["--utilization", "0"], "--utilization 0.0: must be more than 0"),
        (["--utilization", "nan"], "--utilization nan"),
        (["--gpu", "h10"], "did you mean 'h100'?"),
        (["--preset", "papers"], "'paper', 'quick', 'standard'"),
    ],
)
def test_options_have_their_rules(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *arguments]) == 2
    assert message in capsys.readouterr().err
