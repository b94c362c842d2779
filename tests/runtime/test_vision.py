"""Faces: the networks against MediaPipe's own numbers, and which face of a picture is taken."""

import json
from pathlib import Path

import av
import numpy as np
import pytest

from runtime import models
from runtime.errors import FeatureError, ModelError
from runtime.features.spec import SPEC
from runtime.features.vision import VisionFeatures

Picture = np.ndarray
YAW, PITCH, ROLL, X, Y, SCALE, PRESENT = range(52, 59)


@pytest.fixture(scope="module")
def faces() -> VisionFeatures:
    return VisionFeatures(models.resolve("face-landmarker"))


@pytest.fixture(scope="module")
def pictures(demo: Path) -> list[Picture]:
    with av.open(str(demo)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_a_face_is_what_mediapipe_finds(
    root: Path, faces: VisionFeatures, pictures: list[Picture]
) -> None:
    golden = json.loads((root / "tests" / "golden" / "face_landmarker.json").read_text())
    assert len(golden["faces"]) == 12
    for wanted in golden["faces"]:
        picture = pictures[wanted["frame"]]
        face = faces.largest_face(picture[:, ::-1].copy() if wanted["mirrored"] else picture)
        assert face is not None
        np.testing.assert_allclose(face.blendshapes, wanted["blendshapes"], atol=0.02)
        for index, xy in wanted["landmarks"].items():
            np.testing.assert_allclose(face.landmarks[int(index), :2], xy, atol=1.0)


def test_row_of_a_face(faces: VisionFeatures, pictures: list[Picture]) -> None:
    row = faces.row(pictures[0])
    assert row.shape == (SPEC.vision_dim,)
    assert row.dtype == np.float32
    assert np.all((row[:52] >= 0) & (row[:52] <= 1))
    assert row[PRESENT] == 1.0
    mirrored = faces.row(pictures[0][:, ::-1].copy())
    np.testing.assert_allclose(mirrored[[YAW, ROLL, X]], -row[[YAW, ROLL, X]], atol=0.06)
    np.testing.assert_allclose(mirrored[[PITCH, Y, SCALE]], row[[PITCH, Y, SCALE]], atol=0.03)


def test_turning_the_picture_turns_the_head(faces: VisionFeatures, pictures: list[Picture]) -> None:
    import cv2

    height, width = pictures[0].shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), -20, 1.0)  # clockwise on the screen
    turned = cv2.warpAffine(pictures[0], turn, (width, height), borderMode=cv2.BORDER_REPLICATE)
    change = faces.row(turned)[ROLL] - faces.row(pictures[0])[ROLL]
    assert np.degrees(change) == pytest.approx(20, abs=4)


def test_no_face_no_row(faces: VisionFeatures) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    for picture in (noise, np.zeros((90, 160, 3), np.uint8), np.full((1, 1, 3), 255, np.uint8)):
        assert not faces.row(picture).any()


@pytest.mark.parametrize("large_left", [True, False])
def test_the_largest_of_several_faces(
    faces: VisionFeatures, pictures: list[Picture], large_left: bool
) -> None:
    import cv2

    large = pictures[0]
    small = np.zeros_like(large)
    half = cv2.resize(large, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    small[: half.shape[0], : half.shape[1]] = half
    both = np.hstack([large, small] if large_left else [small, large])
    alone, found = faces.row(large), faces.row(both)
    assert (found[X] < 0) == large_left
    assert found[SCALE] == pytest.approx(alone[SCALE], abs=0.03)


@pytest.mark.parametrize(
    "picture",
    [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3), np.float32)],
)
def test_what_is_no_picture_is_refused(faces: VisionFeatures, picture: Picture) -> None:
    with pytest.raises(FeatureError, match="must be"):
        faces.row(picture)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "face_landmarker.task"
    path.write_bytes(b"PK not a zip")
    with pytest.raises(ModelError, match="not a face landmarker"):
        VisionFeatures(path)
