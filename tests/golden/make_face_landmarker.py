"""Makes face_landmarker.json: what MediaPipe itself finds in pictures of the demo clip.

Run once, in an environment with `pip install mediapipe==0.10.21 av`; the project's own does not
have it:

    python tests/golden/make_face_landmarker.py runtime/assets/face_landmarker.task \
        runtime/demo/demo.mp4 > tests/golden/face_landmarker.json
"""

import json
import sys

import av
import mediapipe
from mediapipe.tasks.python import BaseOptions, vision

FRAMES = (0, 45, 90, 150, 210, 270)
LANDMARKS = (1, 10, 33, 61, 152, 263, 291, 468, 473)

model, clip = sys.argv[1:]
landmarker = vision.FaceLandmarker.create_from_options(
    vision.FaceLandmarkerOptions(
        base_options=BaseOptions(model_asset_path=model), output_face_blendshapes=True
    )
)
with av.open(clip) as container:
    pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
found = []
for index in FRAMES:
    for mirrored in (False, True):
        picture = pictures[index][:, ::-1].copy() if mirrored else pictures[index]
        height, width = picture.shape[:2]
        image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=picture)
        result = landmarker.detect(image)
        mesh = result.face_landmarks[0]
        found.append(
            {
                "frame": index,
                "mirrored": mirrored,
                "blendshapes": [round(b.score, 5) for b in result.face_blendshapes[0]],
                "landmarks": {
                    str(k): [round(mesh[k].x * width, 2), round(mesh[k].y * height, 2)]
                    for k in LANDMARKS
                },
            }
        )
json.dump({"mediapipe": mediapipe.__version__, "faces": found}, sys.stdout)
print()
