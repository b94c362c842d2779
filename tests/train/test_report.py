"""The page of a run: all sections, pictures that show something, and one line for every mistake."""

import base64
import io
import json
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runtime.errors import BundleError, DmdLiveError, UsageError
from tests.train import tiny
from train import analysis, report
from train.metrics import (
    expected_calibration_error,
    fit_temperature,
    ks_calibration_error,
    reliability,
    risk_threshold,
)
from train.report import Options
from train.sections import _axis

SECTIONS = ["run", "losses", "metrics", "subsets", "confusion", "reliability", "classes",
            "sentiment", "features", "edges", "attention"]  # fmt: skip
N_PICTURES = 4 + 2 + 1 + 1 + 1 + 2 + 4 + 6  # by section, in that order


class Page(HTMLParser):
    """Anchors, text, and the pictures for light and dark paper, with their captions."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: list[str] = []
        self.light: list[bytes] = []
        self.dark: list[bytes] = []
        self.captions: list[str] = []
        self.best: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert self._open == [], "unclosed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "section":
            self.anchors.append(str(values["id"]))
        if tag in ("img", "source"):
            kind, content = str(values.get("src") or values["srcset"]).split(",", 1)
            assert kind == "data:image/png;base64"
            (self.light if tag == "img" else self.dark).append(base64.b64decode(content))
        if tag not in ("img", "source", "meta"):
            self._open.append("best" if values.get("class") == "best" else tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() in (tag, "best")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._open and self._open[-1] == "figcaption":
            self.captions.append(data)
        if self._open and self._open[-1] == "best":
            self.best.append(data)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tokenizer_json: Path) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    tiny.finished_run(folder, tokenizer_json)
    return folder


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    before = sorted(file.name for file in run.iterdir())
    path = report.write(Options(run=str(run)))
    assert sorted(file.name for file in run.iterdir()) == sorted([*before, "report.html"])
    return Page(path)


def copy(run: Path, to: Path) -> Path:
    shutil.copytree(run, to, ignore=shutil.ignore_patterns("*.html", "model.safetensors"))
    return to


def test_the_page_has_all_sections_and_needs_nothing_else(page: Page, run: Path) -> None:
    assert page.anchors == SECTIONS
    html = (run / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|<script|<link|@import|url\(", html)
    assert 'name="viewport"' in html
    assert "prefers-color-scheme: dark" in html
    for expected in ("0123abc", "<made up>", "model.dim", "text+audio+vision", "recall"):
        assert expected in page.text


def test_pictures_decode_and_show_something(page: Page) -> None:
    assert len(page.light) == len(page.dark) == len(page.captions) == N_PICTURES
    assert all(len(caption) > 40 and caption.endswith(".") for caption in page.captions)
    for light, dark in zip(page.light, page.dark, strict=True):
        pictures = [np.asarray(Image.open(io.BytesIO(data)).convert("L")) for data in (light, dark)]
        assert pictures[0].shape == pictures[1].shape
        for pixels, paper in zip(pictures, (255, 25), strict=True):
            assert abs(int(pixels[0, 0]) - paper) < 4
            assert 0.01 < np.mean(abs(pixels.astype(int) - paper) > 60) < 0.9


def test_the_best_subset_of_every_column_is_marked(page: Page, run: Path) -> None:
    test = json.loads((run / "checkpoint.json").read_text())["metrics"]["test"]
    columns = list(next(iter(test.values())))
    assert len(page.best) >= len(columns)
    assert f"{100 * max(row['accuracy'] for row in test.values()):.1f}" in page.best
    assert f"{min(row['mae'] for row in test.values()):.3f}" in page.best


def test_a_run_without_emotions_or_gd_units_and_a_chosen_utterance(
    run: Path, page: Page, tmp_path: Path
) -> None:
    folder = copy(run, tmp_path / "run")
    found = analysis.load(folder)
    arrays = {n: a for n, a in found.arrays.items() if not n.startswith(("edges", "prior"))}
    arrays["emotion"] = np.full_like(arrays["emotion"], -1)
    arrays["probabilities"] = arrays["probabilities"][:, :0]
    analysis.save(folder, analysis.Analysis(arrays, found.shown))
    info = json.loads((folder / "checkpoint.json").read_text())
    (folder / "checkpoint.json").write_text(json.dumps({**info, "emotions": []}))
    left_out = {"confusion", "reliability", "classes", "edges"}
    other, out = found.shown[3].id, tmp_path / "other.html"
    report.write(Options(run=str(folder), out=str(out), utterance=other))
    made = Page(out)
    assert made.anchors == [name for name in SECTIONS if name not in left_out]
    assert "Homogeneous features by sentiment" in made.text
    assert f"Utterance {found.shown[0].id}: labelled" in page.text
    assert f"Utterance {other}" in made.text
    assert not set(page.light[-6:]) & set(made.light[-6:])  # its own attention
    assert set(page.light[:6]) <= set(made.light)


def test_seconds_are_shown_only_for_our_features(run: Path, tmp_path: Path) -> None:
    info = json.loads((run / "checkpoint.json").read_text())
    shown = analysis.load(run).shown[0]
    stride = info["config"]["model"]["stride_audio"]
    assert _axis("audio", 5, info, shown).step == pytest.approx(stride / 25)
    assert _axis("audio", 5, {**info, "feature_spec_sha256": "other"}, shown).label == "audio, row"
    assert _axis("text", len(shown.pieces), info, shown).names == shown.pieces
    assert _axis("text", 99, info, shown).names == ()


def test_the_diagram_s_bins_are_those_of_the_ece(run: Path) -> None:
    arrays = analysis.load(run).arrays
    p, y = arrays["probabilities"], arrays["emotion"]
    confidence, accuracy, share = reliability(p, y).T
    assert share.sum() == pytest.approx(1.0)
    gap = float(np.sum(abs(confidence - accuracy) * share))
    assert expected_calibration_error(p, y) == pytest.approx(gap)
    assert accuracy @ share == pytest.approx(np.mean(p.argmax(1) == y))
    assert share == pytest.approx(share[0], abs=1.01 / len(y))


def test_a_rounding_error_does_not_change_the_calibration_error() -> None:
    rng = np.random.default_rng(0)
    clips = rng.dirichlet(np.full(7, 0.3), 100)
    labels = np.repeat([rng.choice(7, p=row) for row in clips], 8)  # each clip is heard eight times
    rounded = clips * rng.uniform(0.995, 1.005, clips.shape)
    rounded /= rounded.sum(axis=1, keepdims=True)
    before, after = (
        ks_calibration_error(np.repeat(p, 8, axis=0), labels) for p in (clips, rounded)
    )
    assert 0.0 < abs(after - before) < 0.003


def test_calibration_error_without_bins_is_the_largest_gap() -> None:
    p = np.array([[0.6, 0.4], [0.7, 0.3], [0.2, 0.8], [0.9, 0.1]])
    # In order of confidence: right, wrong, right, wrong.
    gaps = np.cumsum([1 - 0.6, 0 - 0.7, 1 - 0.8, 0 - 0.9]) / 4
    found = ks_calibration_error(p, np.array([0, 1, 1, 1]))
    assert found == pytest.approx(np.abs(gaps).max()) == pytest.approx(0.25)


def test_predictions_above_the_threshold_are_right_as_often_as_asked() -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(7, 0.3), 2_000)
    labels = np.array([rng.choice(7, p=row) for row in p])  # perfectly calibrated
    confidence, wrong = p.max(axis=1), p.argmax(axis=1) != labels
    threshold = risk_threshold(p, labels, 0.2)
    assert 0.3 < threshold < 0.9
    assert wrong[confidence > threshold].mean() <= 0.2
    assert wrong.mean() > 0.25
    assert risk_threshold(p, labels, 1.0) == 0.0
    assert risk_threshold(p[wrong], labels[wrong], 0.2) == 1.0
    # What counts nothing is not seen; what counts double is as if it were there twice.
    assert risk_threshold(p, labels, 0.2, (~wrong).astype(float)) == 0.0
    twice = risk_threshold(np.repeat(p, 2, axis=0), np.repeat(labels, 2), 0.2)
    assert risk_threshold(p, labels, 0.2, np.full(len(p), 2.0)) == pytest.approx(twice)


def test_a_temperature_is_found_whatever_is_common() -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice(7, 6_000, p=[0.05, 0.05, 0.05, 0.1, 0.6, 0.1, 0.05])
    seen = 2.0 * np.eye(7)[labels] + rng.normal(0.0, 1.0, (6_000, 7))
    logits = 2.0 * seen  # of Gaussians 2 apart, were all labels equally common
    common = np.log(np.bincount(labels) / len(labels))
    too_sure = 2.5 * (logits + common) - common
    assert fit_temperature(too_sure, labels) == pytest.approx(2.5, rel=0.1)
    assert fit_temperature(logits, labels, np.ones(6_000)) == pytest.approx(1.0, rel=0.1)


def test_an_unknown_utterance_lists_those_there_are(run: Path) -> None:
    ids = ", ".join(shown.id for shown in analysis.load(run).shown)
    with pytest.raises(UsageError, match=re.escape(ids)):
        report.write(Options(run=str(run), utterance="nobody"))


def test_mistakes_are_one_line_and_leave_nothing(run: Path, tmp_path: Path) -> None:
    def refused(folder: Path, match: str, error: type[DmdLiveError], **options: str) -> None:
        with pytest.raises(error, match=match) as raised:
            report.write(Options(run=str(folder), **options))
        assert "\n" not in str(raised.value)
        assert not list(tmp_path.rglob("*.html*"))

    refused(tmp_path / "nowhere", "not a training run", UsageError)
    refused(run, "no such folder", UsageError, out=str(tmp_path / "no" / "report.html"))
    old = copy(run, tmp_path / "old")
    (old / analysis.FILE).unlink()
    refused(old, "no analysis.safetensors", BundleError)
    unfinished = tmp_path / "unfinished"
    (unfinished / "state").mkdir(parents=True)
    (unfinished / "state" / "last.pt").touch()
    refused(unfinished, "not finished", UsageError)
    damaged = copy(run, tmp_path / "damaged")
    info = json.loads((run / "checkpoint.json").read_text())
    for content in ("", "[]", "{}", json.dumps({**info, "history": []}),
                    json.dumps({**info, "history": [{"losses": 1}]}),
                    json.dumps({**info, "metrics": {}})):  # fmt: skip
        (damaged / "checkpoint.json").write_text(content)
        refused(damaged, "damaged", BundleError)
    (damaged / "checkpoint.json").write_text(json.dumps({**info, "emotions": ["joy"]}))
    refused(damaged, "belongs to another run", BundleError)


def test_the_command_says_a_mistake_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.report", str(tmp_path)])
    assert report.main() == 2
    out = capsys.readouterr()
    assert out.out == ""
    assert out.err.startswith(f"train.report: {tmp_path}: not a training run")
    assert out.err.count("\n") == 1
    monkeypatch.setattr(sys, "argv", ["train.report"])
    with pytest.raises(SystemExit, match="2"):
        report.main()
    assert "RUN" in capsys.readouterr().err
