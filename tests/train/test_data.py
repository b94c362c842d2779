"""Corpora in their own layouts, small ones made here; composition is a function of its seed."""

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch

from runtime.errors import UsageError
from runtime.features.embedding import EMBEDDING_DIM, no_embedding
from runtime.features.spec import MODALITIES, SPEC
from train.config import Config, DataConfig
from train.data import corpora
from train.data.commands import commands
from train.data.compose import Composer
from train.data.compose.emotions import weak_arousal
from train.data.compose.faces import Faces, moving_face
from train.data.corpora import EMOTIONS, NEUTRAL, DataError
from train.data.open import compose
from train.data.prototypes import prototypes
from train.data.sounds import decode_audio
from train.data.utterance import Utterance, collate
from train.loop import hide
from train.prepare import Features, prepare


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
    for name in ("mosi", "mosei"):
        (root / name).mkdir()
        (root / name / "label.csv").write_text(
            "id,text,label,mode\n1,so good,2.4,train\n2,no,-1.0,valid\n"
        )
    (root / "emobank").mkdir()
    (root / "emobank" / "emobank.csv").write_text(
        "id,split,V,A,D,text\n1,train,4.0,3.5,3,Hurray\n2,dev,1.0,2.6,3,Alas\n"
    )
    (root / "vader").mkdir()
    (root / "vader" / "movieReviewSnippets_GroundTruth.txt").write_text(
        "1\t2.0\tgood\n2\t-4\tbad\n"
    )
    noise = np.random.default_rng(0).normal(0, 0.1, 16_000)
    for name in ("emodb/03a01Fa", "emodb/16a01Wa", "emodb/03a01Lb", "ravdess/03-01-08-01-01-01-11"):
        write_flac(root / f"{name}.flac", noise)
    write_flac(root / "nemo" / "a.flac", noise)
    (root / "nemo" / "data.tsv").write_text(
        "file_id\temotion\tspeaker_id\na.flac\tsurprised\tIC0\n"
    )
    for k in range(4):
        write_flac(root / "digits" / f"{k}_theo_{k}.flac", noise[:6_000])
    votes = root / "ferplus" / "FER2013Train"
    votes.mkdir(parents=True)
    (votes / "label.csv").write_text(
        'a.png,"(0, 0, 48, 48)",6,0,1,1,0,0,0,0,2,0\nb.png,"(0, 0, 48, 48)",1,0,0,0,0,0,0,7,1,1\n'
    )
    for name in ("a", "b"):
        cv2.imwrite(str(votes / f"{name}.png"), np.full((48, 48), 128, np.uint8))
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
    ratings = {t.corpus: [] for t in texts}
    for t in texts:
        ratings[t.corpus] += [] if t.rating is None else [(t.split, t.rating, t.arousal)]
    assert [rating for _, rating, _ in ratings["vader/movieReviewSnippets"]] == [1.5, -3.0]
    assert ratings["mosi"] == [("train", 2.4, None), ("valid", -1.0, None)]
    assert ratings["emobank"] == [
        ("train", 1.5, 0.5),
        ("valid", -3.0, pytest.approx(-0.4)),
    ]
    voices = {r.path.stem: (EMOTIONS[r.emotion], r.split) for r in corpora.voices(data)}
    assert voices == {
        "03a01Fa": ("happiness", "train"),
        "16a01Wa": ("anger", "test"),
        "03-01-08-01-01-01-11": ("surprise", "test"),
        "a": ("surprise", "test"),
        **{k: v for k, v in voices.items() if "theo" in k},
    }
    joined = [r for r in corpora.voices(data) if r.corpus == "digits"]
    assert all(3 <= len(r.parts) <= 6 and r.emotion == NEUTRAL for r in joined)
    assert len(joined) == 2  # all of them twice
    seen = corpora.faces(data)
    assert {r.emotion for r in seen if r.corpus == "ckplus48"} == {happy}
    # Contempt is none of the seven, but the appearance network learns its votes.
    assert [r.path.name for r in seen if r.corpus == "ferplus"] == ["a.png"]
    assert [(r.path.name, r.intensity) for r in corpora.ferplus(data)] == [
        ("a.png", 1.0),
        ("b.png", 7 / 8),
    ]
    assert {r.intensity for r in corpora.voices(data) if r.corpus == "ravdess"} == {0.8}


@pytest.mark.parametrize(
    ("path", "line", "message"),
    [
        ("goemotions/ekman/train.tsv", "no tabs here\n", "train.tsv:4"),
        ("goemotions/ekman/dev.tsv", "text\t99\tid\n", "dev.tsv:4"),
        ("vader/movieReviewSnippets_GroundTruth.txt", "3\tmuch\tx\n", "GroundTruth.txt:3"),
        ("vader/movieReviewSnippets_GroundTruth.txt", "3\t9\tx\n", "outside"),
        ("meld/train_sent_emo.csv", "4,Hm,A,boredom,neutral\n", "row 5"),
        ("mosi/label.csv", "3,what,9,train\n", "out of range"),
        ("mosei/label.csv", "3,what,much,train\n", "label.csv:4"),
        ("emobank/emobank.csv", "3,nowhere,1,1,1,x\n", "emobank.csv:4"),
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
    assert first.n_faceless == 3  # grey squares
    clips = {r.path.stem: versions for r, versions in first.voices}
    assert [rows.shape for rows, _ in clips["16a01Wa"]] == [(24, SPEC.audio_dim)]
    assert len(clips["03a01Fa"]) > 3  # a training clip, through other channels too
    for versions in clips.values():
        assert all(np.isfinite(rows).all() for rows, _ in versions)
        assert not any(embedding.any() for _, embedding in versions)  # nobody asked for them
    caches = list((tmp_path / "cache").iterdir())
    written = [cache.stat().st_mtime_ns for cache in caches]
    for path in data.rglob("*.*"):
        os.utime(path, (1, 1))  # a folder that was copied or mounted anew
    again = prepare(data, tmp_path / "cache")
    assert sorted((tmp_path / "cache").iterdir()) == sorted(caches)
    assert [cache.stat().st_mtime_ns for cache in caches] == written
    for cache in caches:
        cache.write_bytes(cache.read_bytes()[:100])  # cut short: made anew, not trusted
    repaired = prepare(data, tmp_path / "cache")
    for (_, a), (_, b), (_, c) in zip(first.voices, again.voices, repaired.voices, strict=True):
        for (one, _), (other, _), (third, _) in zip(a, b, c, strict=True):
            np.testing.assert_array_equal(one, other)
            np.testing.assert_array_equal(one, third)
    write_flac(data / "emodb" / "16a01Wa.flac", np.random.default_rng(1).normal(0, 0.1, 16_000))
    prepare(data, tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) > len(caches)


def test_a_folder_in_a_recording_s_place_is_named(data: Path, tmp_path: Path) -> None:
    (data / "emodb" / "08a01Fa.flac").mkdir()
    with pytest.raises(DataError, match=r"08a01Fa\.flac: cannot be read"):
        prepare(data, tmp_path / "cache")


def test_an_unreadable_recording_is_named(data: Path, tmp_path: Path) -> None:
    (data / "emodb" / "08a01Fa.flac").write_bytes(b"not flac")
    with pytest.raises(DataError, match=r"08a01Fa\.flac"):
        prepare(data, tmp_path / "cache")


def test_training_hears_what_the_device_hears(data: Path) -> None:
    path = data / "emodb" / "03a01Fa.flac"
    samples = decode_audio(path)
    assert samples.shape == (16_000,)
    assert np.abs(samples).max() <= 1.0


def face(**shapes: float) -> np.ndarray:
    """A vision row with these blendshapes."""
    row = np.zeros(SPEC.vision_dim, np.float32)
    for name, value in shapes.items():
        row[SPEC.blendshapes.index(name)] = value
    row[-1] = 1.0
    return row


def test_a_still_becomes_a_moving_face() -> None:
    smile, jaw = (SPEC.blendshapes.index(name) for name in ("mouthSmileLeft", "jawOpen"))
    opening = np.linspace(0.5, 1.5, SPEC.appearance_dim, dtype=np.float32)
    spread = np.zeros(SPEC.vision_dim, np.float32)
    rng, looks = np.random.default_rng(0), slice(58, 58 + SPEC.appearance_dim)
    moves = talks = 0
    for _ in range(20):
        rows = moving_face(
            rng, face(), face(mouthSmileLeft=0.9), 1.0, 60,
            spread=spread, opening=opening, drop=True,
        )  # fmt: skip
        assert rows.shape == (60, SPEC.vision_dim)
        shown = rows[rows[:, -1] > 0]
        assert shown[:, smile].max() > 0.6
        moves += np.ptp(shown[:, smile]) > 0.5
        # The mouth that talks moves the appearance in proportion, and nothing else does.
        np.testing.assert_allclose(shown[:, looks], shown[:, jaw, None] * opening, atol=1e-6)
        talks += shown[:, jaw].max() > 0.02
        assert rows[:, :52].min() >= 0.0
        assert rows[:, :52].max() <= 1.0
        assert not rows[rows[:, -1] == 0].any()
    assert 0 < moves < 20  # some are the same from beginning to end
    assert 0 < talks < 20
    long = moving_face(rng, face(), face(), 1.0, 9_999, spread=spread, opening=opening, drop=False)
    assert len(long) == 225


def test_without_neutral_photographs_a_face_hardly_moves() -> None:
    def known(emotion: str, row: np.ndarray) -> tuple[corpora.Recording, np.ndarray]:
        kind = EMOTIONS.index(emotion)
        return corpora.Recording(
            path=Path(emotion), emotion=kind, person="a", split="train", corpus="made"
        ), row

    smiling = known("happiness", face(mouthSmileLeft=0.9))
    rng, smile = np.random.default_rng(0), SPEC.blendshapes.index("mouthSmileLeft")
    posed = Faces([smiling, known("anger", face(browDownLeft=0.9))])
    calm, _ = posed.draw(rng, "train", NEUTRAL, 30, augment=False)
    assert calm[:, smile].max() < 0.4
    assert not len(posed.draw(rng, "train", EMOTIONS.index("fear"), 30, augment=False)[0])
    wild = Faces([smiling, known("neutral", face(mouthSmileLeft=0.5))])
    assert wild.draw(rng, "train", NEUTRAL, 30, augment=False)[0][:, smile].min() > 0.3


def test_commands_are_mostly_neutral_and_always_the_same() -> None:
    told = commands()
    assert told == commands()
    by = Counter(EMOTIONS[t.emotion] for t in told)
    assert set(by) == set(EMOTIONS)
    assert by["neutral"] > len(told) / 2
    assert {t.split for t in told} == set(corpora.SPLITS)
    assert "seven" in {t.text for t in told if t.emotion == NEUTRAL}
    assert {t.split for t in told if " " not in t.text} == {"train"}  # "stop" is for everybody


def test_arousal_goes_from_neutral_beyond_the_emotion_s_own() -> None:
    anger = EMOTIONS.index("anger")
    found = [weak_arousal(anger, intensity) for intensity in (0.0, 1.0, 1.2, 9.0)]
    assert found == sorted(found)
    assert found[0] == weak_arousal(NEUTRAL) == weak_arousal(NEUTRAL, 2.0)
    assert found[1] == weak_arousal(anger)
    assert found[-1] == 1.0


def test_a_strong_voice_and_face_are_more_aroused(tokenizer_json: Path) -> None:
    texts, features = made_up()
    config = DataConfig(rated_share=0.0)
    composed = Composer(texts, features, tokenizer_json, config, seed=5).held_out("valid")
    strong = replace(
        features,
        voices=[(replace(r, intensity=1.2), v) for r, v in features.voices],
        faces=[(replace(r, intensity=1.2), row) for r, row in features.faces],
    )
    stronger = Composer(texts, strong, tokenizer_json, config, seed=5).held_out("valid")
    for weak, more in zip(composed, stronger, strict=True):
        above_rest = more.arousal - weak_arousal(NEUTRAL)
        assert above_rest == pytest.approx(1.2 * (weak.arousal - weak_arousal(NEUTRAL)))


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
            rows = rng.normal(-5, 1, (40, SPEC.audio_dim)).astype(np.float32)
            voices.append((recording, [(rows, rng.random(EMBEDDING_DIM, np.float32))]))
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


def test_held_out_training_utterances_are_composed_like_the_others(composer: Composer) -> None:
    found = composer.held_out("train")
    assert len(found) == 21
    assert [u.id for u in found[:2]] == ["train-00000", "train-00001"]
    assert all(len(u.text) and len(u.audio) and len(u.vision) for u in found)
    assert all(u.words.endswith("in train") for u in found)


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
    assert composer.about()["n_texts_too_long"] == 1
    # mean |rating| 2, polarity 1 and -0.5
    assert composer.sentiment_of[EMOTIONS.index("happiness")] == pytest.approx(2.0)
    assert composer.sentiment_of[EMOTIONS.index("fear")] == pytest.approx(-1.0)


def test_no_sentence_is_in_two_splits(tokenizer_json: Path) -> None:
    """Publishers have "Okay." in all of theirs. Word pieces know no case."""
    texts, features = made_up()
    told = [t for t in texts if t.emotion == NEUTRAL and t.split == "train" and t.rating is None]
    again = [replace(told[0], split="valid"), replace(told[0], split="test")]
    again[1] = replace(again[1], text=told[0].text.upper())
    before = Composer(texts, features, tokenizer_json, DataConfig(n_test=21), seed=5)
    after = Composer([*again, *texts], features, tokenizer_json, DataConfig(n_test=21), seed=5)
    assert after.about()["n_texts_of_an_earlier_split"] == 2
    assert before.about()["n_texts_of_an_earlier_split"] == 0
    for split in ("valid", "test"):
        assert told[0].text not in {u.words for u in after.told(split)}
        assert [u.words for u in after.told(split)] == [u.words for u in before.told(split)]


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
    voices = [
        (r, [(np.full((40, SPEC.audio_dim), r.emotion, np.float32), no_embedding())])
        for r, _ in features.voices
    ]
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
    voices = [(r, [(rng.normal(-5, 1, (30, SPEC.audio_dim)).astype(np.float32), no_embedding())])
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


def test_a_strange_modality_shows_nothing_and_the_others_label_it(tokenizer_json: Path) -> None:
    texts, features = made_up()
    config = DataConfig(
        rated_share=0.0, strange_share=1.0, conflict_text=0.0, conflict_audio=1.0,
        conflict_vision=0.0,
    )  # fmt: skip
    composer = Composer(texts, features, tokenizer_json, config, seed=5)
    for k in range(30):
        utterance = composer.training(0, k)
        assert utterance.shown == (utterance.emotion, -1, utterance.emotion)
        assert np.isfinite(utterance.audio).all()
    batch = hide(collate([composer.training(0, k) for k in range(200)]), 1.0,
                 np.random.default_rng(0))  # fmt: skip
    present = torch.stack([batch[f"{m}_mask"].any(dim=1) for m in MODALITIES], dim=1)
    alone = present[:, 1] & ~present[:, 0] & ~present[:, 2]
    assert alone.any()
    assert (batch["emotion"][alone] == -1).all()  # by itself it has no label
    assert (batch["emotion"][~alone] >= 0).all()


def test_a_flat_voice_says_nothing_whatever_the_words(tokenizer_json: Path) -> None:
    texts, features = made_up()
    recording = next(r for r, _ in features.voices if r.emotion == NEUTRAL)
    flat = np.full((30, SPEC.audio_dim), 3.0, np.float32)
    voices = [*features.voices, (replace(recording, corpus="plain"), [(flat, no_embedding())])]
    config = DataConfig(
        rated_share=0.0, strange_share=1.0, flat_share=1.0, conflict_text=0.0, conflict_audio=1.0,
        conflict_vision=0.0,
    )  # fmt: skip
    features = replace(features, voices=voices)
    composer = Composer(texts, features, tokenizer_json, config, seed=5)
    found = [composer.training(0, k) for k in range(30)]
    assert len({u.emotion for u in found}) > 3
    for utterance in found:
        assert utterance.shown == (utterance.emotion, -1, utterance.emotion)
    others = Composer(texts, replace(features, voices=voices[:-1]), tokenizer_json, config, seed=5)
    assert others.training(0, 0).audio.std() > 0  # without such voices, strange ones


def test_sentences_alone_are_as_many_as_the_configuration_says(tokenizer_json: Path) -> None:
    texts, features = made_up()
    texts = [*texts, replace(texts[0], text="from elsewhere", corpus="other")]
    config = DataConfig(text_share=1.0, text_limits="made:10", text_repeats="other:3")
    composer = Composer(texts, features, tokenizer_json, config, seed=5)
    words = Counter(u.words for u in composer.sentences())
    assert words["from elsewhere"] == 3
    assert sum(words.values()) == 13
    assert composer.training(0, 0).log_prior is not None
    wrong = DataConfig(text_limits="made=10")
    with pytest.raises(DataError, match="corpus:number"):
        Composer(texts, features, tokenizer_json, wrong, seed=5)


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


def test_a_voice_comes_with_its_embedding_or_without(tokenizer_json: Path) -> None:
    texts, features = made_up()
    shares = {}
    for unheard in (1.0, 0.3, 0.0):
        config = DataConfig(audio_share=1.0, rated_share=0.0, unheard_share=unheard)
        composer = Composer(texts, features, tokenizer_json, config, 5, 4)
        heard = [composer.training(0, k).audio_embedding.any() for k in range(200)]
        shares[unheard] = np.mean(heard)
    assert shares[1.0] == 0.0
    assert 0.6 < shares[0.3] < 0.8
    assert shares[0.0] == 1.0
    held_out = Composer(texts, features, tokenizer_json, DataConfig(n_valid=7), 5).held_out("valid")
    assert all(u.audio_embedding.any() for u in held_out)


def test_emotions_that_nobody_voices_lack_audio(tokenizer_json: Path) -> None:
    texts, features = made_up()
    fear = EMOTIONS.index("fear")
    voices = [(r, versions) for r, versions in features.voices if r.emotion != fear]
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
    settings = Config(data=DataConfig(corpora="goemotions iemocap"))
    with pytest.raises(UsageError, match="no corpus iemocap"):
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


@pytest.mark.skipif("TEST_DATA" not in os.environ, reason="TEST_DATA names no data folder")
def test_nobody_is_in_two_splits() -> None:
    data = Path(os.environ["TEST_DATA"])
    for recordings in (corpora.voices(data), corpora.faces(data)):
        splits: dict[tuple[str, str], set[str]] = {}
        for r in recordings:
            splits.setdefault((r.corpus, r.person), set()).add(r.split)
        assert all(len(s) == 1 for s in splits.values())
        assert {s for found in splits.values() for s in found} == set(corpora.SPLITS)


@pytest.mark.skipif("TEST_DATA" not in os.environ, reason="TEST_DATA names no data folder")
def test_the_split_list_in_the_repository_is_that_of_the_readers(root: Path) -> None:
    table = (root / "configs" / "splits.csv").read_text(encoding="utf-8").splitlines()
    people = corpora.people(Path(os.environ["TEST_DATA"]))
    assert table == ["corpus,person,split", *(",".join(row) for row in people)]
