"""Small feature files of other projects, in the key names, types and widths of the real ones."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

SIZES = {"train": 24, "valid": 8, "test": 10}


def padded(rng: np.random.Generator, shape: tuple[int, int, int], *, front: bool) -> np.ndarray:
    """Random rows of random lengths, with zero rows before or after them."""
    rows = rng.normal(size=shape).astype(np.float32)
    n_rows = rng.integers(3, shape[1] + 1, shape[0])[:, None]
    steps = np.arange(shape[1])
    rows[(steps < shape[1] - n_rows) if front else (steps >= n_rows)] = 0.0
    return rows


def sims(audio: tuple[int, int] = (400, 33), vision: tuple[int, int] = (55, 709)) -> dict[str, Any]:
    """CH-SIMS' `unaligned_39.pkl`: thuiar/MMSA, `data_loader.py`."""
    rng = np.random.default_rng(0)
    out = {}
    for split, n in SIZES.items():
        lengths = {m: rng.integers(3, t + 1, n) for m, t in (("audio", 400), ("vision", 55))}
        pieces = rng.integers(3, 40, n)[:, None]
        mask = (np.arange(39) < pieces).astype(np.float32)
        table: dict[str, Any] = {
            "raw_text": np.array([f"文本 {k}" for k in range(n)]),
            "audio": rng.normal(size=(n, *audio)).astype(np.float32),
            "vision": rng.normal(size=(n, *vision)).astype(np.float32),
            "id": np.array([f"video_0001$_${k:04}" for k in range(n)]),
            "text": rng.normal(size=(n, 39, 768)).astype(np.float32),
            "text_bert": np.stack([rng.integers(1, 90, (n, 39)) * mask, mask, 0 * mask], axis=1),
            "audio_lengths": lengths["audio"].tolist(),
            "vision_lengths": lengths["vision"].tolist(),
            "annotations": np.array(["Positive"] * n),
        }
        for suffix in ("", "_T", "_A", "_V"):
            table[f"classification_labels{suffix}"] = np.ones(n)
            table[f"regression_labels{suffix}"] = (rng.integers(-5, 6, n) / 5.0).astype(np.float32)
        out[split] = table
    return out


def iemocap() -> dict[str, Any]:
    """MulT's `iemocap_data.pkl`: yaohungt/Multimodal-Transformer, `src/dataset.py`."""
    rng = np.random.default_rng(0)
    out = {}
    for split, n in SIZES.items():
        one = np.eye(4, dtype=int)[np.arange(n) % 4]
        out[split] = {
            "text": padded(rng, (n, 20, 300), front=True),
            "audio": padded(rng, (n, 20, 74), front=True),
            "vision": padded(rng, (n, 20, 35), front=True),
            "labels": np.stack([1 - one, one], axis=2),
        }
    return out


def multibench(no: int) -> dict[str, Any]:
    """MultiBench's `humor.pkl` (0 for no) and `sarcasm.pkl` (-1): `datasets/affect/get_data.py`."""
    rng = np.random.default_rng(0)
    out = {}
    for split, n in SIZES.items():
        out[split] = {
            "vision": padded(rng, (n, 50, 371), front=True),
            "audio": padded(rng, (n, 50, 81), front=True),
            "text": padded(rng, (n, 50, 300), front=True),
            "labels": np.where(np.arange(n) % 2, 1, no).reshape(n, 1),
            "id": [f"1_{k}" for k in range(n)] if no else np.arange(n).reshape(n, 1),
        }
    return out


def dialogues(name: str) -> tuple[Any, ...]:
    """`IEMOCAP_features` and `MELD_features_raw1` of hujingwen6666/MMGCN; `MELD_features_raw` of
    declare-lab/conv-emotion."""
    rng = np.random.default_rng(0)
    is_iemocap = name == "IEMOCAP_features"
    n_classes = 6 if is_iemocap else 7
    trained = [f"Ses01F_impro{k:02}" if is_iemocap else k for k in range(12)]
    tested = [f"Ses05M_impro{k:02}" if is_iemocap else 100 + k for k in range(3)]
    widths = (100, 1582, 342) if is_iemocap else (600, 300, 342)
    ids: dict[Any, Any] = {}
    labels: dict[Any, Any] = {}
    speakers: dict[Any, Any] = {}
    sentences: dict[Any, Any] = {}
    vectors: list[dict[Any, Any]] = [{}, {}, {}]
    for key in (*trained, *tested):
        n = int(rng.integers(6, 9))
        ids[key] = [f"{key}_{k}" for k in range(n)]
        labels[key] = [int(k) for k in (np.arange(n) + len(ids)) % n_classes]
        speakers[key] = ["M", "F"] * n
        sentences[key] = ["So how was it?"] * n
        for table, width in zip(vectors, widths, strict=True):
            table[key] = [rng.normal(size=width) for _ in range(n)]
    text, audio, vision = vectors
    if name == "MELD_features_raw":
        return ids, speakers, labels, text, audio, sentences, trained, tested, labels
    parts = (ids, speakers, labels, text, audio, vision, sentences, set(trained), set(tested))
    return parts if is_iemocap else (*parts, labels)


def ur_funny(folder: Path) -> Path:
    """The six pickles of ROC-HCI/UR-FUNNY, version 2: `README.md`."""
    rng = np.random.default_rng(0)
    folds = {"train": [*range(1, 25)], "dev": [*range(25, 33)], "test": [*range(33, 43)]}
    words, covarep, openface, labels = ({} for _ in range(4))
    for name in (k for ids in folds.values() for k in ids):
        n = int(rng.integers(2, 9))
        words[name] = {
            "punchline_embedding_indexes": rng.integers(0, 50, n).tolist(),
            "context_embedding_indexes": [[1, 2], [3]],
            "punchline_sentence": "and so it goes",
            "context_sentences": ["first", "second"],
            "punchline_intervals": [[0.0, 0.5]] * n,
            "context_intervals": [[[0.0, 0.5]]],
        }
        covarep[name] = {"punchline_features": rng.normal(size=(n, 81)).tolist(),
                         "context_features": []}  # fmt: skip
        openface[name] = {"punchline_features": rng.normal(size=(n, 371)).tolist(),
                          "context_features": []}  # fmt: skip
        labels[name] = name % 2
    covarep[1]["punchline_features"] = []  # a punchline without sound
    content = {
        "data_folds": folds,
        "word_embedding_list": rng.normal(size=(50, 300)).tolist(),
        "language_sdk": words,
        "covarep_features_sdk": covarep,
        "openface_features_sdk": openface,
        "humor_label_sdk": labels,
    }
    folder.mkdir()
    for name, value in content.items():
        write(folder / f"{name}.pkl", value)
    return folder


def write(path: Path, content: Any, protocol: int = 4) -> Path:
    """A pickle of it."""
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path
