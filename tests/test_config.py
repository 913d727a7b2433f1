from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import typing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import archlab
from archlab import config as configuration
from archlab.compare.grid.protocol import Expectation, Factor, Protocol, Tuning
from archlab.compare.selective import protocol as selective_protocol
from archlab.compare.selective.trigger import TriggerConfig
from archlab.compress.recipe import CompressConfig, Variant
from archlab.config import (
    CompareConfig,
    EmbeddingArmConfig,
    OptimizerConfig,
    PretrainConfig,
    RunConfig,
    Section,
    TransformerConfig,
    build,
    flatten,
    load,
    to_dict,
    to_yaml,
)
from archlab.data.streams import StreamConfig
from archlab.errors import UserError
from archlab.generate.settings import BeamSearch, Sampling, Settings
from archlab.layers.rotary_scaling import AnyRotaryScaling
from archlab.models.registry import FAMILIES
from archlab.rules import Count, rules_of
from archlab.train.recipes import RECIPES, load_recipe
from archlab.train.text import config as text_configuration
from archlab.train.text.config import CharactersConfig, SentimentConfig, TranslationConfig

SECTIONS = [
    section
    for module in (configuration, text_configuration)
    for _, section in inspect.getmembers(module, inspect.isclass)
    if dataclasses.is_dataclass(section) and section.__module__ == module.__name__
] + [
    Expectation,
    Factor,
    Protocol,
    Tuning,
    selective_protocol.Expectation,
    selective_protocol.SelectiveProtocol,
    StreamConfig,
    TriggerConfig,
    BeamSearch,
    Sampling,
    Settings,
    CompressConfig,
    Variant,
    *typing.get_args(AnyRotaryScaling),
    *(family.config_class for family in FAMILIES.values()),
]

NUMBERS = (int, float, list[int], list[float])


def refused(overrides: list[str], kind: type = CompareConfig) -> str:
    """The message with which the overrides are refused, which must be a single line."""
    with pytest.raises(UserError) as caught:
        build(kind, {}, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("override", "suggestion"),
    [
        ("run.optimizer.step=3", "did you mean 'run.optimizer.steps'?"),
        ("run.optimiser.steps=3", "did you mean 'run.optimizer'?"),
        ("sede=[1]", "did you mean 'seeds'?"),
        ("run.vljepa.loss.positive=text", "did you mean 'run.vljepa.loss.positives'?"),
        ("run.data.pairs.5=x", "did you mean 'run.data.pairs."),
        ("data.pairs.on_error=skip", "did you mean 'run.data'?"),
        ("steps=3", "did you mean 'run.optimizer.steps'?"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_known_one(override: str, suggestion: str) -> None:
    message = refused([override])
    assert suggestion in message


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("run.optimizer.steps=many", "'run.optimizer.steps': 'many' must be of type int"),
        ("run.optimizer.steps=1.5", "'run.optimizer.steps': 1.5 must be of type int"),
        ("run.optimizer.steps=true", "'run.optimizer.steps': True must be of type int"),
        ("run.optimizer.learning_rate=true", "'run.optimizer.learning_rate': True must be of type float"),
        ("run.optimizer.learning_rate=fast", "'fast' must be of type float"),
        ("run.optimizer.learning_rate=null", "None must be of type float"),
        ("run.blind=1", "'run.blind': 1 must be of type bool"),
        ("run.data.source=7", "7 must be of type str"),
        ("seeds=3", "'seeds': 3 must be of type list[int]"),
        ("seeds=[true]", "True must be of type int"),
        ("learning_rates=[1e-3, false]", "False must be of type float"),
        ("run.data.pairs.columns={text: 1}", "must be of type dict[str, str]"),
        ("run.arm=tokens", "'tokens' must be one of token, vljepa, hybrid, supervised"),
        ("run.trunk=big", "'run.trunk': 'big' must be a section of keys"),
    ],
)
def test_a_value_of_the_wrong_type_is_named_with_key_and_type(override: str, expected: str) -> None:
    assert expected in refused([override])


@pytest.mark.parametrize(
    "override",
    [
        "steps",
        "=3",
        "run.seed.x=3",
        "seeds=[1",
        "run.optimizer.steps=!!python/object:os.system {}",
        "run.data.source=2024-02-30",
    ],
)
def test_an_override_that_cannot_be_read_is_quoted(override: str) -> None:
    overrides = ["run.seed=1", override]
    assert repr(override) in refused(overrides) or repr(override.partition("=")[2]) in refused(overrides)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["run.optimizer.steps=0"], "run.optimizer.steps=0: must be at least 1"),
        (["run.optimizer.learning_rate=0"], "run.optimizer.learning_rate=0.0: must be positive"),
        (["run.optimizer.learning_rate=.nan"], "must be positive and finite"),
        (["run.optimizer.learning_rate=.inf"], "must be positive and finite"),
        (["run.optimizer.weight_decay=-0.1"], "weight_decay=-0.1: must be at least 0"),
        (["run.optimizer.warmup_fraction=1.1"], "must lie between 0 and 1"),
        (["run.optimizer.gradient_clip=0"], "gradient_clip=0.0: must be positive; .inf never clips"),
        (["run.data.scenes.paraphrases=3"], "run.data.scenes.paraphrases=3: must be one of 1, 2, 4, 8, 32"),
        (["run.data.pairs.test_fraction=1"], "must be at least 0 and less than 1"),
        (["run.data.pairs.test_fraction=0.9"], "must leave a share to train on"),
        (["run.trunk.width=130"], "run.trunk.width=130: must be a multiple of 8"),
        (["run.vljepa.decoder.heads=3"], "run.vljepa.decoder.width=128: must be a multiple of 6"),
        (["run.tokenizer.max_target=2"], "max_target=2: must be at least 3"),
        (["run.data.source=''"], "run.data.source='': must not be empty"),
        (["seeds=[1, 1]"], "seeds=[1, 1]: must be one or more different values"),
        (["seeds=[]"], "seeds=[]: must be one or more different values"),
        (["seeds=[-1]"], "each must be at least 0"),
        (["pmi_gallery=101"], "pmi_gallery=101: must lie between 2 and 100"),
        (
            ["run.vljepa.predictor.kind=none", "run.vljepa.predictor.attention=causal"],
            "is for kind='joint', not for 'none'",
        ),
        (
            ["run.vljepa.predictor.conditioned=false", "run.vljepa.predictor.kind=cross-attention"],
            "is for kind='joint'",
        ),
        (
            ["run.vljepa.predictor.reconstruction=1"],
            "reconstruction=1.0: is for kind='cross-attention', not for 'joint'",
        ),
        (
            ["run.token.architecture=encoder-decoder", "run.token.attention=causal"],
            "is for architecture='decoder-only'",
        ),
        (["run.arm=hybrid"], "start.run='': must be the folder of a finished vljepa run for arm='hybrid'"),
        (["run.start.parts=[]"], "run.start.parts=[]: must be one or more different values"),
        (["learning_rates=[0.1]"], "sweep_steps=0: must be at least 1 to try learning_rates=[0.1]"),
        (["machine_price_per_hour=.inf"], "machine_price_per_hour=inf: must be at least 0"),
    ],
)
def test_a_value_out_of_range_is_named_with_key_value_and_rule(overrides: list[str], expected: str) -> None:
    assert expected in refused(overrides)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["image_size=60"], "image_size=60: must be a multiple of 16"),
        (["mae.mask_ratio=1"], "mae.mask_ratio=1.0: must be more than 0 and less than 1"),
        (["stem=convolutional"], "stem='convolutional': must be 'linear' with method='mae'"),
        (["method=ijepa", "stem=convolutional"], "stem='convolutional': must be 'linear' with method='ijepa'"),
        (["method=vjepa", "stem=convolutional"], "stem='convolutional': must be 'linear' with method='vjepa'"),
        (["method=vjepa", "optimizer.batch_size=12"], "batch_size=12: counts images, and must be a multiple of"),
        (["jepa.frames=9"], "frames=9: must be a multiple of tubelet=2"),
        (["jepa.frames=4"], "jepa.frames=4: must lie between 6 and 64"),
        (["jepa.momentum=1"], "jepa.momentum=1.0: must be more than 0 and less than 1"),
        (["lejepa.regularization=0"], "lejepa.regularization=0.0: must be more than 0"),
        (["sources=[]"], "sources=[]: must be one or more different values"),
        (["sources=['']"], "each must not be empty"),
    ],
)
def test_pretraining_has_its_rules_too(overrides: list[str], expected: str) -> None:
    assert expected in refused(overrides, PretrainConfig)


def test_rules_hold_for_configurations_made_in_code() -> None:
    with pytest.raises(UserError, match="steps=0: must be at least 1"):
        OptimizerConfig(steps=0)
    with pytest.raises(UserError, match="heads=0"):
        dataclasses.replace(TransformerConfig(), heads=0)


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_every_number_has_a_rule_where_it_is_declared(section: type) -> None:
    numbers = {name for name, hint in typing.get_type_hints(section).items() if hint in NUMBERS}
    assert numbers - rules_of(section).keys() == set()


def test_a_new_section_brings_its_rules_along() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Family(Section):
        petals: Count = 5
        name: str = ""

    assert Family(petals=1).petals == 1
    with pytest.raises(UserError, match=r"^petals=0: must be at least 1$"):
        Family(petals=0)


@pytest.mark.parametrize("written", ["1e-3", "1.0e-3", "1E-3", "0.001"])
def test_every_way_to_write_a_float_is_a_float(written: str, tmp_path: Path) -> None:
    """To YAML 1.1 an exponent without a point is text."""
    (tmp_path / "a.yaml").write_text(f"optimizer:\n  learning_rate: {written}\n")
    assert load(tmp_path / "a.yaml", RunConfig).optimizer.learning_rate == 0.001
    assert build(RunConfig, {}, [f"optimizer.learning_rate={written}"]).optimizer.learning_rate == 0.001


def test_a_whole_number_is_a_float_where_one_is_asked_for() -> None:
    value = build(OptimizerConfig, {}, ["weight_decay=1"]).weight_decay
    assert value == 1.0
    assert isinstance(value, float)


def test_overrides_change_the_file_and_the_last_one_wins(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("seed: 3\noptimizer: {steps: 5, batch_size: 6}\n")
    config = load(path, RunConfig, ["optimizer.steps=7", "optimizer.steps=8"])
    assert (config.seed, config.optimizer.steps, config.optimizer.batch_size) == (3, 8, 6)
    assert config.trunk == TransformerConfig()


def test_building_leaves_its_input_alone() -> None:
    raw: dict[str, Any] = {"optimizer": {"steps": 5}}
    build(RunConfig, raw, ["optimizer.steps=9", "trunk.depth=1"])
    assert raw == {"optimizer": {"steps": 5}}


def test_an_empty_file_is_the_default(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("# nothing\n")
    assert load(tmp_path / "a.yaml", CompareConfig) == CompareConfig()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"- 1\n- 2\n", "holds a list"),
        (b"a: [1\n", "not valid YAML"),
        (b"\xff\xfe\x00", "not valid YAML"),
        (b"seed: 2024-02-30\n", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=expected) as caught:
        load(path, RunConfig)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.yaml: No such file"):
        load(tmp_path / "none.yaml", RunConfig)


def test_a_recipe_chooses_its_configuration(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("recipe: pretrain\nseed: 4\n")
    assert load_recipe(path, ["scenes_share=0.5"])[1] == PretrainConfig(seed=4, scenes_share=0.5)
    path.write_text("seed: 4\n")
    assert load_recipe(path)[1] == RunConfig(seed=4)
    path.write_text("recipe: pretraining\n")
    with pytest.raises(UserError, match="'pretraining' must be one of arm, pretrain, characters"):
        load_recipe(path)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_a_function_that_trains_it(name: str, tmp_path: Path) -> None:
    assert callable(RECIPES[name].train)
    (tmp_path / "a.yaml").write_text(f"recipe: {name}\n")
    assert load_recipe(tmp_path / "a.yaml")[1] == RECIPES[name].config()


@pytest.mark.parametrize(
    ("kind", "overrides", "expected"),
    [
        (CharactersConfig, ["training.warmup=3000"], "warmup=3000: must be at most steps=2000"),
        (
            CharactersConfig,
            ["training.average.kind=checkpoints", "training.average.every=2001"],
            "average.every=2001: must be at most steps=2000",
        ),
        (CharactersConfig, ["training.decay_fraction=0"], "decay_fraction=0.0: must be more than 0"),
        (TranslationConfig, ["languages=[en]"], "must be two different ones"),
        (TranslationConfig, ["batch_tokens=100"], "batch_tokens=100: must be at least max_target=128"),
        (SentimentConfig, ["max_tokens=9000"], "batch_tokens=8192: must be at least max_tokens=9000"),
    ],
)
def test_recipes_on_text_have_their_rules(kind: type, overrides: list[str], expected: str) -> None:
    assert expected in refused(overrides, kind)


def test_flat_keys_are_dotted_and_lose_nothing() -> None:
    flat = flatten(to_dict(CompareConfig()))
    assert flat["run.vljepa.loss.temperature"] == 0.07
    assert flat["run.data.pairs.columns"] == {}
    assert build(CompareConfig, {}, [f"{key}={value!r}" for key, value in flat.items()]) == CompareConfig()


text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
stacks = st.builds(
    lambda pairs, heads, depth: TransformerConfig(width=2 * pairs * heads, heads=heads, depth=depth),
    st.integers(1, 64),
    st.integers(1, 8),
    st.integers(1, 12),
)
optimizers = st.builds(
    OptimizerConfig,
    steps=st.integers(1, 10**6),
    learning_rate=st.floats(1e-12, 1e3),
    weight_decay=st.floats(0, 1e6),
    gradient_clip=st.floats(min_value=0, exclude_min=True),
    precision=st.sampled_from(["float32", "bfloat16"]),
)
runs = st.builds(
    RunConfig,
    arm=st.sampled_from(["token", "vljepa", "supervised"]),
    seed=st.integers(0, 2**40),
    blind=st.booleans(),
    data=st.builds(
        configuration.DataConfig,
        source=text,
        pairs=st.builds(configuration.PairsData, columns=st.dictionaries(text, text, max_size=3), query=text),
        scenes=st.builds(configuration.ScenesData, kinds=st.lists(text, max_size=3)),
    ),
    trunk=stacks,
    vljepa=st.builds(EmbeddingArmConfig, target=stacks, embedding=st.integers(1, 4096)),
    optimizer=optimizers,
)


@given(
    st.builds(
        CompareConfig,
        run=runs,
        seeds=st.lists(st.integers(0, 2**31), min_size=1, max_size=5, unique=True),
        learning_rates=st.lists(st.floats(1e-9, 1.0), max_size=4, unique=True),
        sweep_steps=st.integers(1, 100),
    )
)
def test_a_saved_configuration_loads_to_an_equal_one(
    tmp_path_factory: pytest.TempPathFactory, config: CompareConfig
) -> None:
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    path.write_text(to_yaml(config), encoding="utf-8")
    assert load(path, CompareConfig) == config


@functools.cache
def attributes_read() -> set[str]:
    """Names of all attributes that the package reads outside the configuration and the command line's arguments."""
    names: set[str] = set()
    for path in Path(archlab.__file__).parent.rglob("*.py"):
        if path.name not in ("config.py", "cli.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            names |= {
                node.attr
                for node in ast.walk(tree)
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
            }
    return names


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_every_field_is_read_somewhere(section: type) -> None:
    fields = {field.name for field in dataclasses.fields(section)}  # type: ignore[arg-type]
    assert fields - attributes_read() == set()
