"""What each modality is labelled with by itself: what its own heads learn."""

from torch import Tensor

__all__ = ["agreeing", "own_labels"]


def own_labels(batch: dict[str, Tensor], k: int) -> dict[str, Tensor]:
    """`batch` with the labels of modality `k` for those of the whole: the emotion that it shows,
    and the sentiment that it is rated with alone.

    Where nobody rated it alone, the sentiment of the whole holds if it shows the same emotion.
    """
    emotion = batch["emotion"]
    shown = batch["shown"][:, k] if "shown" in batch else emotion
    if "own_sentiment" in batch:
        sentiment = batch["own_sentiment"][:, k]
    else:
        sentiment = batch["sentiment"].masked_fill(shown != emotion, float("nan"))
    return {**batch, "emotion": shown, "sentiment": sentiment}


def agreeing(batch: dict[str, Tensor], present: Tensor) -> Tensor:
    """(B, 3) bool: the modalities, of those `present`, that do not contradict the whole: they show
    its emotion, and are not rated with a sentiment of the other sign."""
    emotion = batch["emotion"][:, None]
    agree = present & (batch.get("shown", emotion) == emotion)
    if "own_sentiment" in batch:
        opposed = batch["own_sentiment"] * batch["sentiment"][:, None] < 0
        agree = agree & ~opposed
    return agree
