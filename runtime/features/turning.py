"""Pictures of a camera that hangs askew: which way is up, and turning them so."""

import numpy as np
from numpy.typing import NDArray

from .vision import VisionFeatures

__all__ = ["TURNS", "Turning"]

TURNS = ("0", "90", "180", "270", "auto")
"""Degrees, counterclockwise, by which pictures are turned; `auto` finds them."""

_CHECK_S, _SEARCH_S = 1.0, 0.2  # between looks at the other ways up, with a face and without
_N_FIRST = 3  # the first pictures are all looked at
_KEEP = 0.8  # of what was found before counts at the next look
_SURE = 1.5  # the lead in logits that another way up needs in sum
_LEAST = 1.0  # logit of a face that is clear enough to count
_FIT = 0.5  # how likely the landmark network must find a face there


class Turning:
    """Turns pictures by a fixed angle, or (`auto`) as the faces in them need it.

    The face detector finds faces upside down as well, and the landmark network then fits what is
    not there. Upright, the detector is surer. So it looks at all four ways up: at the first
    pictures, then once a second, and more often without a face. `askew`: another way up than the
    present one is right.
    """

    def __init__(self, networks: VisionFeatures, rotate: str = "0") -> None:
        self._networks = networks
        self._auto = rotate == "auto"
        self._k = 0 if self._auto else int(rotate) // 90
        self._lead = np.zeros(4)  # of each way up over the present one
        self._n_looks, self._next_s = 0, -np.inf
        self._had_face = False
        self.askew = False

    def upright(self, rgb: NDArray[np.uint8], time_s: float) -> NDArray[np.uint8]:
        """The (H, W, 3) uint8 picture of `time_s`, turned."""
        turned = _turn(rgb, self._k)
        if self._n_looks >= _N_FIRST and 0.0 < self._next_s - time_s <= _CHECK_S:
            return turned
        self._next_s = time_s + (_CHECK_S if self._had_face else _SEARCH_S)
        self._n_looks += 1
        self._look(turned)
        best = int(self._lead.argmax())
        self.askew = self._lead[best] >= _SURE
        if not (self.askew and self._auto):
            return turned
        self._k, self._lead, self.askew = (self._k + best) % 4, np.zeros(4), False
        return _turn(rgb, self._k)

    def told(self, *, n_faces: int) -> None:
        """How many faces the picture had."""
        self._had_face = n_faces > 0

    def _look(self, turned: NDArray[np.uint8]) -> None:
        ways = [turned, *(_turn(turned, k) for k in (1, 2, 3))]
        logits = np.array([self._networks.surest(way) for way in ways])
        self._lead *= _KEEP
        best = int(logits.argmax())
        if logits[best] < _LEAST:
            return
        if best == 0:
            self._lead *= 0.5
        elif self._networks.fits(ways[best]) >= _FIT:
            self._lead[best] += logits[best] - logits[0]


def _turn(rgb: NDArray[np.uint8], k: int) -> NDArray[np.uint8]:
    return rgb if k == 0 else np.ascontiguousarray(np.rot90(rgb, k))
