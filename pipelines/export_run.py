"""From a run folder to a bundle: the trained model, golden pairs from its card, and what was measured."""

import json
from pathlib import Path

import numpy as np

from data.card import DatasetCard
from data.pairs import load_pair
from data.prepare import Preparer
from export.bundle import Bundle
from export.write import export_bundle
from fusion.checkpoint import load_model
from pipelines.run_report import EVALUATION
from pipelines.train import read_run


def export_run(run: Path, out: Path, card_path: Path | None = None, split: str = "val", golden: int = 4) -> Bundle:
    """Export the model of ``run``; golden pairs are spread over ``split`` of the card (default: the run's own).

    Raises:
        DataError: the run is not finished, or the card's pairs cannot be read.
        ExportError: the graph answers otherwise than PyTorch; an older bundle stays as it was.
    """
    _, info, _ = read_run(run)
    model = load_model(run)
    card = DatasetCard.load(card_path or Path(info.card))
    preparer = Preparer(card.inputs(), card.load_rig())
    samples = card.samples(split)
    chosen = [samples[round(i * (len(samples) - 1) / max(1, golden - 1))] for i in range(min(golden, len(samples)))]
    pairs = [load_pair(sample, preparer)[0] for sample in chosen]
    arrays = {"rgb": np.stack([p.rgb for p in pairs]), "thermal": np.stack([p.thermal for p in pairs])}
    measured = run / EVALUATION
    metrics = json.loads(measured.read_text()) if measured.exists() else {}
    config = model.config
    return export_bundle(
        model, config.inputs, config.classes, config.sensors, arrays, metrics, info.recipe_sha256, out, config.head.kind
    )
