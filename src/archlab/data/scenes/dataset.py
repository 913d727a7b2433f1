"""The data set: scenes, pictures, questions and captions, as the splits every trainer reads.

Pictures, meanings and the order of examples depend on the seed and the world alone. The paraphrase dial changes targets
and nothing else, so that two runs at different K differ in the wording of targets only: an argument about targets would
not be tested by runs of which one also heard every question in more ways. How often queries are reworded is a dial of
its own.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields

import numpy as np
from numpy.typing import NDArray

from archlab.data.example import Dataset, Example, Images, Split
from archlab.data.scenes import frames, lexicon
from archlab.data.scenes.language import (
    HELD_OUT_WORDINGS,
    Forms,
    Question,
    Spoken,
    answer_forms,
    caption_forms,
    caption_meaning,
    question_forms,
    wordings,
)
from archlab.data.scenes.questions import ask, candidates, scene_caption
from archlab.data.scenes.render import render
from archlab.data.scenes.world import SPLITS, Draws, Scene, SceneConfig, require_number, sample_scenes

CAPTION_QUESTION = Question("caption")
HELD_OUT_TURNS = [
    Spoken(turned, turned)
    for turned in (HELD_OUT_WORDINGS[turn:] + HELD_OUT_WORDINGS[:turn] for turn in range(len(HELD_OUT_WORDINGS)))
]


@dataclass(frozen=True, kw_only=True)
class SceneDataConfig(SceneConfig):
    """The world, and how much of it to ask about.

    Attributes:
        train_images: pictures in "train"; a larger split begins with the smaller one.
        validation_images: pictures in "validation".
        test_images: pictures in "test", and as many in "test_combinations" and "test_backgrounds".
        questions_per_image: questions per picture, besides its one caption.
        paraphrases: surface forms of a target, an answer or a caption, K.
        query_paraphrases: surface forms of a query, whatever K is.

    Raises:
        UserError: a value breaks its rule.
    """

    train_images: int = 4000
    validation_images: int = 500
    test_images: int = 1000
    questions_per_image: int = 4
    paraphrases: int = 4
    query_paraphrases: int = 4

    def __post_init__(self) -> None:
        SceneConfig.__post_init__(self)
        for name in ("train_images", "validation_images", "test_images"):
            require_number(name, getattr(self, name), 1, 1_000_000, whole=True)
        require_number("questions_per_image", self.questions_per_image, 1, 8, whole=True)
        for name in ("paraphrases", "query_paraphrases"):
            wordings(getattr(self, name), name)

    @property
    def spoken(self) -> Spoken:
        """How every split but "test_forms" is said."""
        return Spoken(wordings(self.query_paraphrases), wordings(self.paraphrases))

    @property
    def sizes(self) -> dict[str, int]:
        """Pictures of each split that is drawn; "test_forms" has those of "test"."""
        return {
            "train": self.train_images,
            "validation": self.validation_images,
            "test": self.test_images,
            "test_combinations": self.test_images,
            "test_backgrounds": self.test_images,
        }


def build_scenes(config: SceneDataConfig) -> Dataset:
    """Build every split.

    Besides "train", "validation" and "test" these are "test_combinations" (pairs of colour and shape never trained on),
    "test_backgrounds" (textures never trained on) and "test_forms" (the pictures and questions of "test", worded in
    forms never trained on; successive examples begin with different ones of the four).
    """
    splits = {}
    for name, count in config.sizes.items():
        scenes = sample_scenes(count, config, split=name)
        images = render(scenes, config.image_size)
        splits[name] = _split(name, images, _examples(name, scenes, config, [config.spoken]), config)
        if name == "test":
            splits["test_forms"] = _split("test_forms", images, _examples(name, scenes, config, HELD_OUT_TURNS), config)
    return Dataset("scenes", splits)


def _examples(split: str, scenes: list[Scene], config: SceneDataConfig, spoken: list[Spoken]) -> list[Example]:
    """Questions, then the caption, picture by picture; example i is said as `spoken[i % len(spoken)]`."""
    examples: list[Example] = []
    answers: dict[tuple[str, int], Forms] = {}  # answers recur: share their forms
    for image, scene in enumerate(scenes):
        draws = Draws(config.seed, SPLITS[split], image, 1)  # the fourth number keeps it apart from the scene's stream
        for number, (kind, question, meaning) in enumerate(ask(scene, draws, config.questions_per_image)):
            turn = len(examples) % len(spoken)
            targets = answers.setdefault((meaning, turn), answer_forms(meaning, spoken[turn].targets))
            queries = question_forms(question, spoken[turn].queries)
            examples.append(Example(f"{split}-{image}-{number}", image, "vqa", kind, queries, targets, meaning))
        caption, turn = scene_caption(scene), len(examples) % len(spoken)
        examples.append(
            Example(
                id=f"{split}-{image}-caption",
                image=image,
                task="caption",
                kind="caption",
                queries=question_forms(CAPTION_QUESTION, spoken[turn].queries),
                targets=caption_forms(caption, spoken[turn].targets),
                meaning=caption_meaning(caption),
            )
        )
    return examples


def _split(name: str, images: NDArray[np.uint8], examples: list[Example], config: SceneDataConfig) -> Split:
    image_digest = hashlib.sha256(repr(images.shape).encode() + images.tobytes()).hexdigest()
    return make_split(name, images, image_digest, examples, candidates(config.max_objects), config)


def make_split(
    name: str,
    images: Images,
    image_digest: str,
    examples: list[Example],
    answers: dict[str, dict[str, str]],
    config: SceneDataConfig,
) -> Split:
    """A split of the built-in world.

    Args:
        image_digest: hash of all that `images` depend on.
        answers: per kind, the canonical answers and their meaning ids.
    """
    return Split(
        name=name,
        images=images,
        examples=examples,
        digest=_digest(name, image_digest, examples, config),
        image_digest=image_digest,
        candidates={kind: list(meanings) for kind, meanings in answers.items()},
        canonical_meaning={text: meaning for meanings in answers.values() for text, meaning in meanings.items()},
    )


def _digest(name: str, image_digest: str, examples: list[Example], config: SceneDataConfig) -> str:
    """SHA-256 of the world's settings, the pixels, every example's meaning and its first and last forms.

    The forms in between follow from the meaning, the last form and the language's tables, which are hashed too: writing
    out all forms of a large split would take longer than drawing its pictures. The sizes of other splits are left out.
    """
    world = {field.name: asdict(config)[field.name] for field in fields(SceneConfig)}
    tables = [frames.QUESTIONS, frames.ANSWERS, frames.MORE_ANSWERS, frames.CAPTIONS, frames.PHRASES, frames.OPENINGS]
    words = {key: value for key, value in vars(lexicon).items() if key.isupper()}
    settings = [name, image_digest, world, config.paraphrases, tables, words]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for one in examples:
        texts = (one.queries[0], one.queries[-1], one.targets[0], one.targets[-1])
        digest.update("\x1f".join((one.id, str(one.image), one.kind, one.meaning, *texts)).encode() + b"\x1e")
    return digest.hexdigest()
