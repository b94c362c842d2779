"""Corpora in their own layouts, small ones made here; composition is a function of its seed."""

import os
from collections import Counter
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch

from runtime.errors import UsageError
from runtime.features.audio import audio_rows
from runtime.features.spec import MODALITIES, SPEC
from train.config import Config, DataConfig
from train.data import corpora
from train.data.compose import Composer, change_gain, moving_face
from train.data.corpora import EMOTIONS, NEUTRAL, DataError
from train.data.open import compose
from train.data.prototypes import prototypes
from train.data.utterance import Utterance, collate
from train.loop import hide
from train.prepare import Features, decode_audio, prepare


def write_flac(path: Path, samples: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("flac", rate=16_000, layout="mono")
        piece = (samples * 32_767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(piece[None], format="s16", layout="mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with one or two items of everything."""
    root = tmp_path / "data"
    ekman = root / "goemotions" / "ekman"
    ekman.mkdir(parents=True)
    (ekman / "labels.txt").write_text("anger\ndisgust\nfear\njoy\nsadness\nsurprise\nneutral\n")
    for name in ("train", "dev", "test"):
        (ekman / f"{name}.tsv").write_text("I love it\t3\ta\nMixed\t0,3\tb\nFine.\t6\tc\n")
    (root / "meld").mkdir()
    (root / "meld" / "train_sent_emo.csv").write_text(
        'Sr No.,Utterance,Speaker,Emotion,Sentiment\n1,"Oh, no!",A,sadness,negative\n'
        "2,Great,B,joy,positive\n3,So,B,joy,neutral\n"
    )
    (root / "vader").mkdir()
    (root / "vader" / "movieReviewSnippets_GroundTruth.txt").write_text(
        "1\t2.0\tgood\n2\t-4\tbad\n"
    )
    noise = np.random.default_rng(0).normal(0, 0.1, 16_000)
    for name in ("emodb/03a01Fa", "emodb/16a01Wa", "emodb/03a01Lb", "ravdess/03-01-08-01-01-01-11"):
        write_flac(root / f"{name}.flac", noise)
    for name in ("happy/S010_1", "happy/S011_1", "contempt/S012_1"):
        path = root / "ckplus48" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((48, 48), 128, np.uint8))
    return root


def test_corpora_are_read_in_their_layouts(data: Path) -> None:
    texts = corpora.texts(data)
    happy = EMOTIONS.index("happiness")
    goemotions = [t for t in texts if t.corpus == "goemotions"]
    assert len([t for t in goemotions if t.split != "train"]) == 4  # no row of two labels
    mixed = [EMOTIONS[t.emotion] for t in goemotions if t.text == "Mixed"]
    assert mixed == ["anger", "happiness"]  # teaches both
    assert {t.split for t in goemotions} == {"train", "valid", "test"}
    assert [t.polarity for t in texts if t.corpus == "meld"] == [-1.0, 1.0, 0.0]
    assert [t.rating for t in texts if t.rating is not None] == [1.5, -3.0]
    voices = {r.path.stem: (EMOTIONS[r.emotion], r.split) for r in corpora.voices(data)}
    assert voices == {
        "03a01Fa": ("happiness", "train"),
        "16a01Wa": ("anger", "test"),
        "03-01-08-01-01-01-11": ("surprise", "test"),
    }
    assert {r.emotion for r in corpora.faces(data)} == {happy}


@pytest.mark.parametrize(
    ("path", "line", "message"),
    [
        ("goemotions/ekman/train.tsv", "no tabs here\n", "train.tsv:4"),
        ("goemotions/ekman/dev.tsv", "text\t99\tid\n", "dev.tsv:4"),
        ("vader/movieReviewSnippets_GroundTruth.txt", "3\tmuch\tx\n", "GroundTruth.txt:3"),
        ("vader/movieReviewSnippets_GroundTruth.txt", "3\t9\tx\n", "outside"),
        ("meld/train_sent_emo.csv", "4,Hm,A,boredom,neutral\n", "row 5"),
    ],
)
def test_malformed_rows_are_named(data: Path, path: str, line: str, message: str) -> None:
    with (data / path).open("a") as file:
        file.write(line)
    with pytest.raises(DataError, match=message):
        corpora.texts(data)


def test_an_empty_folder_says_what_it_may_hold(tmp_path: Path) -> None:
    for read in (corpora.texts, corpora.voices, corpora.faces):
        with pytest.raises(DataError, match="it may hold"):
            read(tmp_path)


def test_features_are_extracted_once(data: Path, tmp_path: Path) -> None:
    first = prepare(data, tmp_path / "cache")
    assert first.n_faceless == 2  # grey squares
    assert [rows.shape for _, rows in first.voices] == [(24, SPEC.audio_dim)] * 3
    (cache,) = (tmp_path / "cache").iterdir()
    written = cache.stat().st_mtime_ns
    again = prepare(data, tmp_path / "cache")
    assert cache.stat().st_mtime_ns == written
    np.testing.assert_array_equal(first.voices[1][1], again.voices[1][1])
    cache.write_bytes(cache.read_bytes()[:100])  # cut short: made anew, not trusted
    repaired = prepare(data, tmp_path / "cache")
    np.testing.assert_array_equal(first.voices[1][1], repaired.voices[1][1])


def test_an_unreadable_recording_is_named(data: Path, tmp_path: Path) -> None:
    (data / "emodb" / "08a01Fa.flac").write_bytes(b"not flac")
    with pytest.raises(DataError, match=r"08a01Fa\.flac"):
        prepare(data, tmp_path / "cache")


def test_training_hears_what_the_device_hears(data: Path) -> None:
    path = data / "emodb" / "03a01Fa.flac"
    samples = decode_audio(path)
    assert samples.shape == (16_000,)
    assert np.abs(samples).max() <= 1.0


def test_gain_on_rows_is_gain_on_samples() -> None:
    samples = np.random.default_rng(0).normal(0, 0.05, 16_000).astype(np.float32)
    louder = audio_rows(samples * 10 ** (7.0 / 20))
    changed = change_gain(audio_rows(samples), 7.0)
    np.testing.assert_allclose(changed, louder, atol=1e-3)


def test_a_still_becomes_a_moving_face() -> None:
    rng = np.random.default_rng(0)
    resting, peak = np.zeros(SPEC.vision_dim, np.float32), np.zeros(SPEC.vision_dim, np.float32)
    smile = SPEC.blendshapes.index("mouthSmileLeft")
    peak[smile] = 0.9
    rows = moving_face(rng, resting, peak, 1.0, 60, drop=True)
    assert rows.shape == (60, SPEC.vision_dim)
    shown = rows[rows[:, -1] > 0]
    assert shown[:, smile].max() > 0.6
    assert rows[:, : len(SPEC.blendshapes)].min() >= 0.0
    assert rows[:, : len(SPEC.blendshapes)].max() <= 1.0
    assert not rows[rows[:, -1] == 0].any()
    assert len(moving_face(rng, resting, peak, 1.0, 9_999, drop=False)) == 225


def made_up() -> tuple[list[corpora.Text], Features]:
    """Small corpora that hold every emotion in every split."""
    rng = np.random.default_rng(0)
    texts, voices, faces = [], [], []
    for split in corpora.SPLITS:
        for emotion, name in enumerate(EMOTIONS):
            texts += [
                corpora.Text(
                    text=f"sentence {k} of {name} in {split}",
                    emotion=emotion,
                    rating=None,
                    polarity=1.0 if name == "happiness" else -0.5,
                    split=split,
                    corpus="made",
                )
                for k in range(4)
            ]
            recording = corpora.Recording(
                path=Path(name), emotion=emotion, person=split, split=split, corpus="made"
            )
            voices.append((recording, rng.normal(-5, 1, (40, SPEC.audio_dim)).astype(np.float32)))
            faces.append((recording, rng.random(SPEC.vision_dim, np.float32)))
        texts.append(
            corpora.Text(
                text=f"rated in {split}",
                emotion=-1,
                rating=-2.0,
                polarity=None,
                split=split,
                corpus="made",
            )
        )
    long = corpora.Text(
        text="far " * 100, emotion=0, rating=None, polarity=None, split="train", corpus="made"
    )
    return [*texts, long], Features(voices, faces, 0)


@pytest.fixture
def composer(tokenizer_json: Path) -> Composer:
    """Composes from small made-up corpora."""
    return Composer(*made_up(), tokenizer_json, DataConfig(n_test=21), seed=5)


def test_composition_is_a_function_of_seed_epoch_and_index(composer: Composer) -> None:
    for index in range(20):
        a, b = composer.training(1, index), composer.training(1, index)
        for name in MODALITIES:
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    firsts = [composer.training(epoch, 3) for epoch in range(8)]
    assert len({(u.text.tobytes(), u.audio.tobytes()) for u in firsts}) > 4


def test_training_shows_every_subset_and_labels(composer: Composer) -> None:
    drawn = [composer.training(0, k) for k in range(400)]
    batch = hide(collate(drawn), 0.5, np.random.default_rng(0))
    present = torch.stack([batch[f"{m}_mask"].any(dim=1) for m in MODALITIES], dim=1)
    assert len(present.unique(dim=0)) == 7
    whole = torch.tensor([len(u.audio) > 0 for u in drawn])
    assert 0.4 < float(present[whole].all(dim=1).float().mean()) < 0.6
    assert present[~whole].tolist() == [[True, False, False]] * int((~whole).sum())
    rated = [u for u in drawn if u.emotion < 0]
    assert {u.sentiment for u in rated} == {-2.0}
    assert 0.1 < len(rated) / 400 < 0.3
    assert composer.n_too_long == 1
    # mean |rating| 2, polarity 1 and -0.5
    assert composer.sentiment_of[EMOTIONS.index("happiness")] == pytest.approx(2.0)
    assert composer.sentiment_of[EMOTIONS.index("fear")] == pytest.approx(-1.0)


def test_single_modalities_come_in_batches(tokenizer_json: Path) -> None:
    config = DataConfig(
        utterances_per_epoch=80,
        rated_share=0.0,
        text_share=0.4,
        audio_share=0.2,
        vision_share=0.2,
        n_test=21,
    )
    mixed = Composer(*made_up(), tokenizer_json, config, seed=5, batch_size=4)
    kinds: Counter[tuple[bool, ...]] = Counter()
    sentences: Counter[bytes] = Counter()
    for epoch in range(2):
        for first in range(0, 80, 4):
            drawn = [mixed.training(epoch, first + k) for k in range(4)]
            (present,) = {tuple(len(getattr(u, m)) > 0 for m in MODALITIES) for u in drawn}
            kinds[present] += 1
            if present == (True, False, False):
                sentences.update(u.text.tobytes() for u in drawn)
                assert np.ptp([len(u.text) for u in drawn]) < 10
    alone = {(True, False, False): 16, (False, True, False): 8, (False, False, True): 8}
    assert kinds == {**alone, (True, True, True): 8}
    # 29 training sentences: 7 whole batches a round, each sentence once a round
    assert sum(sentences.values()) == 64
    assert len(sentences) >= 28
    assert max(sentences.values()) <= 3
    assert sentences.keys() <= {u.text.tobytes() for u in mixed.sentences()}
    assert len(mixed.sentences()) == 29  # rated ones among them


def test_a_modality_may_be_neutral_or_contradict(tokenizer_json: Path) -> None:
    texts, features = made_up()
    voices = [(r, np.full((40, SPEC.audio_dim), r.emotion, np.float32)) for r, _ in features.voices]
    loud = Composer(
        texts,
        Features(voices, features.faces, 0),
        tokenizer_json,
        DataConfig(rated_share=0.0, neutral_share=0.3, conflict_share=0.3),
        seed=5,
    )
    name = {emotion: name for emotion, name in enumerate(EMOTIONS)}
    said = Counter()
    for k in range(600):
        utterance = loud.training(0, k)
        word = utterance.words.split()[3]
        truth = name[utterance.emotion]
        said["same" if word == truth else "neutral" if word == "neutral" else "other"] += 1
    # text is neutral in half of 30 %, and contradicts in a third of 30 %
    assert 0.68 < said["same"] / 600 < 0.84
    assert 0.07 < said["neutral"] / 600 < 0.2
    assert 0.05 < said["other"] / 600 < 0.15


def test_some_utterances_are_unlabelled_and_never_share_a_part_with_the_others(
    tokenizer_json: Path,
) -> None:
    texts, features = made_up()
    rng = np.random.default_rng(1)
    voices = [(r, rng.normal(-5, 1, (30, SPEC.audio_dim)).astype(np.float32))
              for r, _ in features.voices for _ in range(5)]  # fmt: skip
    config = DataConfig(rated_share=0.0, unlabelled_share=0.6, labelled_parts=0.4)
    composer = Composer(texts, Features(voices, features.faces, 0), tokenizer_json, config, seed=5)
    heard: dict[bool, set[str]] = {True: set(), False: set()}
    for k in range(500):
        utterance = composer.training(0, k)
        labelled = utterance.emotion >= 0
        assert labelled != np.isnan(utterance.sentiment)
        heard[labelled].add(utterance.words)
    assert len(heard[True]) + len(heard[False]) == 7 * 4  # every sentence, each on one side
    assert not heard[True] & heard[False]
    assert len(heard[True]) == 7 * 2  # 0.4 of four, rounded up
    batch = hide(collate([composer.training(0, k) for k in range(60)]), 0.5, rng)
    assert 0.45 < float((batch["emotion"] < 0).float().mean()) < 0.75
    assert (batch["shown"][batch["emotion"] < 0] == -1).all()


def test_the_modality_that_contradicts_is_the_one_that_the_configuration_names(
    tokenizer_json: Path,
) -> None:
    texts, features = made_up()
    config = DataConfig(
        rated_share=0.0, conflict_share=1.0, conflict_text=0.0, conflict_audio=1.0,
        conflict_vision=0.0,
    )  # fmt: skip
    composer = Composer(texts, features, tokenizer_json, config, seed=5)
    for k in range(50):
        utterance = composer.training(0, k)
        assert utterance.shown is not None
        text, audio, vision = utterance.shown
        assert text == vision == utterance.emotion != audio


def test_neutral_voices_are_as_common_as_the_configuration_says(tokenizer_json: Path) -> None:
    texts, features = made_up()
    config = DataConfig(audio_share=1.0, neutral_weight=4.0)
    composer = Composer(texts, features, tokenizer_json, config, seed=5)
    emotions = [composer.training(0, k).emotion for k in range(600)]
    n_spoken = len({r.emotion for r, _ in features.voices})
    assert emotions.count(NEUTRAL) / 600 == pytest.approx(4.0 / (3.0 + n_spoken), abs=0.06)


def test_what_is_left_of_an_utterance_has_its_own_label() -> None:
    happy, angry, neutral = (EMOTIONS.index(e) for e in ("happiness", "anger", "neutral"))
    shown = [(neutral, happy, neutral), (happy, happy, angry), (happy, happy, happy)]
    labels = [happy, happy, happy]
    utterances = [
        Utterance(
            text=np.arange(1, 4),
            audio=np.ones((6, SPEC.audio_dim), np.float32),
            vision=np.ones((6, SPEC.vision_dim), np.float32),
            emotion=labels[k % 3],
            sentiment=1.0,
            shown=shown[k % 3],
        )
        for k in range(300)
    ]
    batch = hide(collate(utterances), 1.0, np.random.default_rng(0))
    present = torch.stack([batch[f"{m}_mask"].any(dim=1) for m in MODALITIES], dim=1)
    for k in range(300):
        seen = {e for e, here in zip(shown[k % 3], present[k].tolist(), strict=True) if here}
        wanted = {happy, angry} if {happy, angry} <= seen else seen - {neutral} or seen
        label = int(batch["emotion"][k])
        assert label in wanted
        if len(wanted) == 2:
            assert label == happy  # the whole, where what is left contradicts itself
        assert bool(batch["sentiment"][k].isnan()) == (label != happy)


def test_emotions_that_nobody_voices_lack_audio(tokenizer_json: Path) -> None:
    texts, features = made_up()
    fear = EMOTIONS.index("fear")
    voices = [(r, rows) for r, rows in features.voices if r.emotion != fear]
    config = DataConfig(utterances_per_epoch=40, audio_share=0.5, n_test=21)
    quiet = Composer(texts, Features(voices, features.faces, 0), tokenizer_json, config, 5, 4)
    assert quiet.about()["without_voice"] == ["fear"]
    drawn = [quiet.training(0, k) for k in range(40)]
    assert all(len(u.audio) == 0 for u in drawn if u.emotion == fear)
    assert all(len(u.audio) > 0 for u in drawn if u.emotion not in (fear, -1) and not len(u.text))
    assert all((len(u.audio) == 0) == (u.emotion == fear) for u in quiet.held_out("test"))


def test_prototypes_are_faces_of_every_expression() -> None:
    made = prototypes()
    again = prototypes()
    assert {EMOTIONS[r.emotion] for r, _ in made} == set(EMOTIONS) - {"neutral"}
    assert {r.split for r, _ in made} == set(corpora.SPLITS)
    rows = np.array([row for _, row in made])
    np.testing.assert_array_equal(rows, [row for _, row in again])
    assert rows.shape[1] == SPEC.vision_dim
    assert rows.min() >= 0.0
    assert rows.max() <= 1.0
    smile = rows[:, SPEC.blendshapes.index("mouthSmileLeft")]
    happy = np.array([EMOTIONS[r.emotion] == "happiness" for r, _ in made])
    assert smile[happy].min() > smile[~happy].mean()


def test_unknown_corpora_are_named(data: Path, tokenizer_json: Path, tmp_path: Path) -> None:
    settings = Config(data=DataConfig(corpora="goemotions mosei"))
    with pytest.raises(UsageError, match="no corpus mosei"):
        compose(data, settings, tokenizer_json, tmp_path)


def test_held_out_set_is_fixed_balanced_and_complete(composer: Composer) -> None:
    first, again = composer.held_out("test"), composer.held_out("test")
    assert [u.emotion for u in first] == [e for e in range(7) for _ in range(3)]
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.vision, b.vision)
    assert all(len(u.text) and len(u.audio) and len(u.vision) for u in first)
    assert len({u.text.tobytes() for u in first}) == 21


def test_batches_follow_the_contract(composer: Composer) -> None:
    batch = collate([composer.training(0, k) for k in range(16)])
    assert batch["audio"].shape[2] == SPEC.audio_dim
    for m in MODALITIES:
        mask = batch[f"{m}_mask"]
        assert not (~mask[:, :-1] & mask[:, 1:]).any()  # valid rows come first
    text_only = collate(composer.rated("test"))
    assert text_only["audio"].shape[1:] == (1, SPEC.audio_dim)
    assert not text_only["audio_mask"].any()


@pytest.mark.skipif("DMD_LIVE_DATA" not in os.environ, reason="DMD_LIVE_DATA names no data folder")
def test_nobody_is_in_two_splits() -> None:
    data = Path(os.environ["DMD_LIVE_DATA"])
    for recordings in (corpora.voices(data), corpora.faces(data)):
        splits: dict[tuple[str, str], set[str]] = {}
        for r in recordings:
            splits.setdefault((r.corpus, r.person), set()).add(r.split)
        assert all(len(s) == 1 for s in splits.values())
        assert {s for found in splits.values() for s in found} == set(corpora.SPLITS)


@pytest.mark.skipif("DMD_LIVE_DATA" not in os.environ, reason="DMD_LIVE_DATA names no data folder")
def test_the_split_list_in_the_repository_is_that_of_the_readers(root: Path) -> None:
    table = (root / "configs" / "splits.csv").read_text(encoding="utf-8").splitlines()
    people = corpora.people(Path(os.environ["DMD_LIVE_DATA"]))
    assert table == ["corpus,person,split", *(",".join(row) for row in people)]
