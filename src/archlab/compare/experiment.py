"""The controlled comparison, from a configuration to `results.json` and `report.html`.

    data -> frozen features -> learning-rate sweep -> runs of both arms -> test splits and controls -> report

Every stage writes what it made under the output folder and is skipped when that is there: an interrupted comparison
goes on where it stopped, and ends in the same numbers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from archlab.compare.assemble import assemble
from archlab.compare.budgets import Budget, Inputs, apply_budget, check_arms
from archlab.compare.end_to_end import check_one_question, train_end_to_end
from archlab.compare.floor import floors_of, measure_floor, why_no_floor
from archlab.compare.flops import BatchShape, Sizes
from archlab.compare.inference import measure_inference, training_memory
from archlab.compare.report import write_report
from archlab.compare.scores import ARMS, AT_10, CIDER, CLASSIFICATION, SLOTS, VQA, load_results
from archlab.compare.trial import Trial, try_run
from archlab.compare.workers import Job, train_all
from archlab.config import CompareConfig, RunConfig
from archlab.errors import UserError
from archlab.evaluate.measure import Items, Measurement
from archlab.train.folder import claim, undamaged, write_text
from archlab.train.run import Run, run_order, train_run
from archlab.train.setup import Setup


@dataclass(frozen=True)
class Runs:
    """All trained runs of a comparison, and how they did on the test splits; one entry per seed.

    Attributes:
        arms: the two arms.
        blind: the arms trained with shuffled images; empty where the preset has none.
        supervised: the supervised head, the ceiling of the features; empty where the preset has none.
        end_to_end: answers of a network of the pixels; None where the preset has none.
        floors: what simple means reach, by name; see `compare.floor`.
    """

    arms: dict[str, list[tuple[Run, Trial]]]
    blind: dict[str, list[tuple[Run, Trial]]]
    supervised: list[tuple[Run, Trial]]
    end_to_end: Measurement | None = None
    floors: Mapping[str, Measurement] = field(default_factory=dict)


def run_compare(config: CompareConfig, out: Path, preset: str) -> Path:
    """Run the comparison, or what is left of it.

    Args:
        out: folder of the comparison.
        preset: its name, for the report.

    Returns:
        the path of the report.

    Raises:
        UserError: the data cannot be read, the folder belongs to another configuration, or the arms differ in anything
            but what the budget declares.
        KeyboardInterrupt: interrupted; the same call goes on.
    """
    setup = Setup.prepare(config.run)
    check_splits(setup)
    if config.end_to_end_epochs:
        check_one_question(setup, config)
    setup.read_images()
    claim(out, config)  # once the data are known to be good: a mistyped source must leave no folder behind
    shapes = batch_shapes(config.run, setup)
    sizes = Sizes(setup.encoder.width, setup.tokenizer.vocab_size, len(setup.answers))
    budget = apply_budget(config.budget, config.run, sizes, shapes)
    sweep = sweep_learning_rates(config, budget, setup, out)
    plans: dict[str, RunConfig] = {arm: tuned(getattr(budget, arm), sweep[arm]) for arm in ARMS}
    differs = {seed: check_plans(plans, budget, setup, seed) for seed in config.seeds}[config.seeds[0]]

    jobs = {arm: [_job(plans[arm], seed, arm, out) for seed in config.seeds] for arm in ARMS}
    first = config.seeds[0]
    blind = {arm: [_job(replace(plans[arm], blind=True), first, f"{arm}-blind", out)] for arm in ARMS}
    ceiling = [_job(replace(plans["vljepa"], arm="supervised"), first, "supervised", out)]
    if not config.trained_blind:
        blind = {}
    if not config.supervised or not setup.answers:
        ceiling = []
    # Seed by seed, both arms side by side: they train under the same load.
    by_seed = [job for pair in zip(*jobs.values(), strict=True) for job in pair]
    train_all([*by_seed, *(job for one in blind.values() for job in one), *ceiling], config, trials=True)

    def finished(job: Job) -> tuple[Run, Trial]:
        run = train_run(job.plan, setup, job.folder, job.name)
        return run, try_run(run, setup, config)

    runs = Runs(
        arms={arm: [finished(job) for job in listed] for arm, listed in jobs.items()},
        blind={arm: [finished(job) for job in listed] for arm, listed in blind.items()},
        supervised=[finished(job) for job in ceiling],
    )
    if config.end_to_end_epochs:
        answers = Measurement.cached(out / "end_to_end.json", lambda: train_end_to_end(setup, config))
        runs = replace(runs, end_to_end=answers)
    floors = {
        name: Measurement.cached(out / f"{name}.json", lambda name=name: measure_floor(name, setup, config))  # type: ignore[misc]
        for name in floors_of(setup)
        if not why_no_floor(name, setup, config)
    }
    runs = replace(runs, floors=floors)
    inference = cached(
        out / "inference.json", lambda: measure_inference([runs.arms[arm][0][0] for arm in ARMS], setup, config)
    )
    memory = cached(out / "memory.json", lambda: training_memory(plans, sizes, max(shapes, key=_area)))
    results = assemble(config, preset, setup, budget, differs, sweep, runs, sizes, shapes, inference, memory)
    write_text(out / "results.json", json.dumps(results, indent=1, allow_nan=False) + "\n")
    return write_report(load_results(out / "results.json"), out)  # the file is what the report must hold


def sweep_learning_rates(
    config: CompareConfig, budget: Budget, setup: Setup, out: Path
) -> dict[str, list[dict[str, float]]]:
    """Equal trials for each arm: short runs of the first seed, one per learning rate, scored on validation.

    Returns:
        arm -> {"learning_rate", "score"} of every trial, in the order tried; empty without a sweep.
    """
    jobs: dict[str, list[Job]] = {arm: [] for arm in ARMS}
    for rate in config.learning_rates:
        for arm in ARMS:
            plan: RunConfig = getattr(budget, arm)
            steps = min(config.sweep_steps, plan.optimizer.steps)
            optimizer = replace(plan.optimizer, learning_rate=rate, steps=steps)
            evaluation = replace(plan.evaluation, checkpoints=1, first_checkpoint=steps)
            trial = replace(plan, optimizer=optimizer, evaluation=evaluation, seed=config.seeds[0])
            jobs[arm].append(Job(trial, out / "sweep" / f"{arm}-{rate:g}", f"sweep {arm} {rate:g}"))
    train_all([job for listed in jobs.values() for job in listed], config, trials=False)
    return {
        arm: [
            {
                "learning_rate": job.plan.optimizer.learning_rate,
                "score": primary(train_run(job.plan, setup, job.folder, job.name).metrics["curve"][-1]["scores"]),
            }
            for job in listed
        ]
        for arm, listed in jobs.items()
    }


def tuned(plan: RunConfig, trials: Sequence[Mapping[str, float]]) -> RunConfig:
    """The plan at its best learning rate; the lower one of equals."""
    if not trials:
        return plan
    best = max(trials, key=lambda trial: (trial["score"], -trial["learning_rate"]))
    return replace(plan, optimizer=replace(plan.optimizer, learning_rate=best["learning_rate"]))


def primary(scores: Mapping[str, float]) -> float:
    """What a sweep maximises: the mean of the headline scores that lie between 0 and 1 and that the data allow."""
    answers = VQA if VQA in scores else CLASSIFICATION  # where classes are all that is asked
    found = [scores[name] for name in (answers, SLOTS, AT_10[0]) if name in scores]
    return float(np.mean(found)) if found else scores[CIDER]  # of captions too few to retrieve among


def check_splits(setup: Setup) -> None:
    """Refuse data on which both arms could be trained, but not scored.

    Raises:
        UserError: a split has nothing to score, or the test split a single image, which no control can shuffle.
    """
    source = f"data.source={setup.config.data.source!r}"
    for name in ("validation", "test"):
        items = Items.first(setup.dataset[name], 1)
        if not len(items.vqa) and not len(items.captions):
            raise UserError(
                f"{source}: its {name} split has no captions, and no questions while the training split has answers; "
                f"give both the same kind of texts"
            )
    if len(setup.dataset["test"].images) < 2:
        raise UserError(
            f"{source}: its test split has a single image, and the shuffled-image control needs at least 2; "
            f"add images, or raise run.data.pairs.test_fraction"
        )


def check_plans(plans: Mapping[str, RunConfig], budget: Budget, setup: Setup, seed: int) -> dict[str, list[Any]]:
    """Refuse plans that differ in anything but what the budget declares; returns what differs."""
    seeded = {arm: replace(plan, seed=seed) for arm, plan in plans.items()}
    data, features = setup.dataset.digest(), setup.features("train").digest
    inputs = {arm: Inputs(data, features, run_order(plan, setup)) for arm, plan in seeded.items()}
    rules = replace(budget, token=replace(budget.token, seed=seed), vljepa=replace(budget.vljepa, seed=seed))
    return check_arms(seeded["token"], seeded["vljepa"], rules, inputs["token"], inputs["vljepa"])


def batch_shapes(plan: RunConfig, setup: Setup) -> list[BatchShape]:
    """Lengths of every training batch of the first seed: operations are counted from them."""
    order, collate = run_order(plan, setup), setup.collator("train")
    return [
        BatchShape(len(rows), setup.encoder.tokens, *collate.lengths(rows, queries, targets))
        for rows, queries, targets in zip(order.rows, order.query_forms, order.target_forms, strict=True)
    ]


def cached(path: Path, compute: Any) -> Any:
    """What `compute` returned before, or now.

    Raises:
        UserError: what was kept of before is damaged.
    """
    if not path.exists():
        write_text(path, json.dumps(compute(), indent=1))
    with undamaged(path):
        return json.loads(path.read_text(encoding="utf-8"))


def _job(plan: RunConfig, seed: int, name: str, out: Path) -> Job:
    return Job(replace(plan, seed=seed), out / "runs" / f"{name}-{seed}", f"{name}, seed {seed}")


def _area(shape: BatchShape) -> int:
    return shape.samples * (shape.visual + shape.query + shape.target)
