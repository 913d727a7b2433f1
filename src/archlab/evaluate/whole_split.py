"""A whole split, asked of a run as it is served: images to answers, through its own encoder."""

from __future__ import annotations

from dataclasses import replace

from archlab.evaluate.measure import Items, Measurement, measure_captions, measure_retrieval, measure_vqa
from archlab.evaluate.readout import EmbeddingReadout
from archlab.train.setup import Setup
from archlab.vl.answering import Answerer


def measure_answerer(answerer: Answerer, setup: Setup, split: str) -> Measurement:
    """Questions, captions and VL-JEPA's retrieval, as far as the split has them.

    Args:
        setup: of the data; its own encoder is not used.
    """
    asked = replace(setup, encoder=answerer.encoder)
    collator, readout, result = asked.collator(split), answerer.readout, Measurement()
    items = Items.first(collator.split, len(collator.split.examples))
    measure_vqa(result, readout, collator, items.vqa)
    if len(items.captions):
        measure_captions(result, readout, collator, items.captions)
        if isinstance(readout, EmbeddingReadout):
            measure_retrieval(result, readout, collator, items.captions)
    return result
