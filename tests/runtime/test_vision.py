"""Faces: the networks against MediaPipe's own numbers, and which face of a picture is taken."""

import json
from pathlib import Path

import av
import numpy as np
import pytest

from runtime.errors import FeatureError, ModelError
from runtime.features.spec import SPEC
from runtime.features.tracking import FaceTracker
from runtime.features.vision import VisionFeatures
from runtime.store import models

Picture = np.ndarray
YAW, PITCH, ROLL, X, Y, SCALE, PRESENT = (*range(52, 58), SPEC.vision_dim - 1)


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


def two_people(picture: Picture, small_at: int, *, large: bool = True) -> Picture:
    """A large face on the right, unless it is hidden, and a small one at column `small_at`."""
    import cv2

    small = cv2.resize(picture, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)
    canvas = np.zeros((picture.shape[0], 2 * picture.shape[1], 3), np.uint8)
    canvas[: small.shape[0], small_at : small_at + small.shape[1]] = small
    if large:
        canvas[:, -picture.shape[1] :] = picture
    return canvas


def test_one_face_is_followed_without_changing_a_bit(
    faces: VisionFeatures, pictures: list[Picture]
) -> None:
    tracker = FaceTracker(faces)
    for k, picture in enumerate(pictures[::4]):
        seen = tracker.look(picture, 4 * k / 15)
        np.testing.assert_array_equal(seen.row, faces.row(picture))
        assert seen.n_faces == 1
        assert seen.box is not None


def test_the_face_that_was_followed_is_kept(faces: VisionFeatures, pictures: list[Picture]) -> None:
    """The small one was there first, and moves; a larger one comes, goes and stays."""
    tracker, picture = FaceTracker(faces), pictures[0]
    step = picture.shape[1] // 15
    for k in range(6):
        large = k in (1, 2, 4, 5)
        view = two_people(picture, k * step, large=large)
        seen = tracker.look(view, k / 15)
        assert seen.n_faces == 1 + large
        assert [face.id for face in seen.faces] == ([1, 2] if large else [1])
        assert seen.row[X] < 0.0  # the small one, left
        if large:
            assert seen.faces[1].row[X] > 0.0
            assert faces.row(view)[X] > 0.0  # the largest, right
    # The first one is hidden for less than a second, and keeps its number.
    alone = two_people(picture, 0)
    alone[:, : picture.shape[1]] = 0
    for k in range(6, 12):
        assert [face.id for face in tracker.look(alone, k / 15).faces] == [2]
    both = two_people(picture, 6 * step)
    assert [face.id for face in tracker.look(both, 12 / 15).faces] == [1, 2]
    # Gone for longer, somebody else takes the place: a number that nobody has had.
    for k in range(13, 30):
        tracker.look(alone, k / 15)
    assert [face.id for face in tracker.look(both, 30 / 15).faces] == [2, 3]


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


def emotion_columns(row: np.ndarray) -> np.ndarray:
    """The appearance embedding of a row."""
    first = len(SPEC.blendshapes) + len(SPEC.head_pose)
    return row[first : first + SPEC.appearance_dim]


def test_a_crop_that_is_nothing_but_a_face_is_found(
    faces: VisionFeatures, pictures: list[Picture]
) -> None:
    import cv2

    face = faces.largest_face(pictures[0])
    assert face is not None
    (left, top), (right, bottom) = face.landmarks[:, :2].min(0), face.landmarks[:, :2].max(0)
    tight = pictures[0][int(top) : int(bottom), int(left) : int(right)]
    for side in (48, 96, 200):
        small = cv2.resize(tight, (side, side), interpolation=cv2.INTER_AREA)
        assert faces.row(small)[PRESENT] == 1.0


def test_a_webcam_s_face_and_a_small_crop_of_it_look_alike(
    faces: VisionFeatures, pictures: list[Picture]
) -> None:
    """A face 400 pixels high, and the same picture so small that it is 48: their appearances are
    closer to one another than to any other expression of the clip."""
    import cv2

    def look(picture: Picture, height: float) -> np.ndarray:
        face = faces.largest_face(picture)
        assert face is not None
        scale = height / float(np.ptp(face.landmarks[:, 1]))
        way = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
        return emotion_columns(
            faces.row(cv2.resize(picture, None, fx=scale, fy=scale, interpolation=way))
        )

    some = pictures[:: len(pictures) // 6]
    large, small = (np.array([look(p, height) for p in some]) for height in (400.0, 48.0))
    gaps = np.linalg.norm(large[:, None] - small, axis=2)
    spread = np.linalg.norm(large - large.mean(axis=0), axis=1).mean()
    assert np.diag(gaps).mean() < spread


def test_light_and_contrast_are_not_part_of_a_face(
    faces: VisionFeatures, pictures: list[Picture]
) -> None:
    bright = emotion_columns(faces.row(pictures[0]))
    dim = emotion_columns(faces.row((pictures[0] * 0.45).astype(np.uint8)))
    others = [emotion_columns(faces.row(p)) for p in pictures[:: len(pictures) // 6]]
    spread = np.linalg.norm(np.array(others) - np.mean(others, axis=0), axis=1).mean()
    assert np.linalg.norm(bright - dim) < spread


def test_another_network_than_the_contract_s_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"no network at all"):
        (tmp_path / "appearance.onnx").write_bytes(content)
        with pytest.raises(ModelError, match=r"appearance\.onnx: not the appearance network") as e:
            VisionFeatures(models.resolve("face-landmarker"), tmp_path / "appearance.onnx")
        assert "\n" not in str(e.value)
