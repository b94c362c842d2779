"""A robot's control loop: it never waits for emotions, it looks at the newest one.

python examples/control_loop.py talk.mp4      (or no argument: webcam and microphone)
"""

import sys
import time

from dmd_live import EmotionStream

PERIOD_S = 0.05


def main() -> None:
    """Twenty times a second: read what is known, act, go on."""
    devices = {"file": sys.argv[1]} if sys.argv[1:] else {"camera": 0, "microphone": "default"}
    face = "neutral"
    with EmotionStream(**devices, realtime=True, provisional=True) as stream:
        while not stream.ended:
            event = stream.latest()
            wanted = "neutral" if event is None or event.uncertain else event.emotion
            if wanted != face:
                face = wanted
                print(f"face: {face}")
            time.sleep(PERIOD_S)


if __name__ == "__main__":
    main()
