"""Antennas and head of a Reachy Mini follow the emotion; alone, it breathes.

python examples/reachy_mini_loop.py talk.mp4  (or no argument: webcam and microphone)

Without the package reachy_mini, the poses are printed in place of being sent.
"""

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from dmd_live import EmotionEvent, EmotionStream

PERIOD_S = 0.02
HOLD_S = 4.0
"""How long a pose is kept after its utterance."""
SETTLE_S = 0.25
"""Two thirds of the way to a new pose take so long: no jerks."""


class Robot(Protocol):
    """What of `reachy_mini.ReachyMini` is used."""

    def set_target(self, head: Any, antennas: Any) -> None:
        """`head`: (4, 4) pose; `antennas`: right and left angle, radians."""
        ...


@dataclass(frozen=True, kw_only=True)
class Pose:
    """Radians. `antennas`: up is 0, outwards and down is more. `pitch`: down is more."""

    antennas: tuple[float, float] = (0.0, 0.0)
    pitch: float = 0.0
    roll: float = 0.0

    def numbers(self) -> np.ndarray:
        """(4,): both antennas, pitch, roll."""
        return np.array([*self.antennas, self.pitch, self.roll])


POSES = {
    "neutral": Pose(),
    "happiness": Pose(antennas=(0.35, -0.35), pitch=-0.15, roll=0.12),
    "surprise": Pose(antennas=(-0.2, 0.2), pitch=-0.25),
    "sadness": Pose(antennas=(2.2, -2.2), pitch=0.3, roll=0.05),
    "fear": Pose(antennas=(1.6, -1.6), pitch=-0.1),
    "anger": Pose(antennas=(1.2, -1.2), pitch=0.15),
    "disgust": Pose(antennas=(1.4, -0.6), pitch=0.0, roll=-0.15),
}
"""The robot answers a person's feeling; it does not mirror it where that would be unkind: it lowers
its antennas before anger."""


def wanted(event: EmotionEvent | None, age_s: float) -> Pose:
    """The pose for the newest event, which came `age_s` ago: neutral when unsure or long ago."""
    if event is None or event.uncertain or age_s > HOLD_S:
        return POSES["neutral"]
    return POSES.get(event.emotion, POSES["neutral"])


def head_pose(pitch: float, roll: float) -> np.ndarray:
    """(4, 4): turned about the forward axis by `roll`, then about the left axis by `pitch`."""
    cr, sr, cp, sp = math.cos(roll), math.sin(roll), math.cos(pitch), math.sin(pitch)
    turned = np.eye(4)
    turned[:3, :3] = [[cp, sp * sr, sp * cr], [0.0, cr, -sr], [-sp, cp * sr, cp * cr]]
    return turned


def run(robot: Robot, stream: EmotionStream, clock: Callable[[], float] = time.monotonic) -> None:
    """Fifty times a second until the stream ends: look at the newest event, move a little."""
    now, newest, since_s = POSES["neutral"].numbers(), None, clock()
    while not stream.ended:
        event = stream.latest()
        if event is not newest:
            newest, since_s = event, clock()
        goal = wanted(newest, clock() - since_s).numbers()
        now = now + (goal - now) * (1.0 - math.exp(-PERIOD_S / SETTLE_S))
        breath = 0.05 * math.sin(2.0 * math.pi * clock() / 4.0)
        robot.set_target(
            head=head_pose(now[2], now[3]), antennas=[now[0] + breath, now[1] - breath]
        )
        time.sleep(PERIOD_S)


class Printer:
    """Prints a pose when it has changed by more than a twentieth of a turn of the antennas."""

    def __init__(self) -> None:
        self._last = np.zeros(2)

    def set_target(self, head: Any, antennas: Any) -> None:
        """Takes the pose of the robot."""
        if np.abs(np.array(antennas) - self._last).max() > 0.3:
            self._last = np.array(antennas)
            print(f"antennas: {antennas[0]:+.1f} {antennas[1]:+.1f}", flush=True)


def main() -> None:
    """Move the robot that is here, or print."""
    devices = {"file": sys.argv[1]} if sys.argv[1:] else {"camera": 0, "microphone": "default"}
    with EmotionStream(**devices, realtime=True, provisional=True) as stream:
        try:
            from reachy_mini import ReachyMini
        except ImportError:
            print("reachy_mini is not installed: poses are printed", file=sys.stderr)
            run(Printer(), stream)
        else:
            with ReachyMini() as robot:
                run(robot, stream)


if __name__ == "__main__":
    main()
