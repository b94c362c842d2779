"""What Home Assistant must know to show the sensors of a stream."""

import json
import re

from ..version import __version__

__all__ = ["discovery"]

_PREFIX = "homeassistant"
_SENSORS = {
    # What the model is not sure of is no emotion to act on.
    "emotion": {
        "name": "Emotion",
        "icon": "mdi:emoticon-outline",
        "value_template": "{{ 'uncertain' if value_json.uncertain else value_json.emotion }}",
    },
    "sentiment": {
        "name": "Sentiment",
        "icon": "mdi:thumbs-up-down-outline",
        "value_template": "{{ value_json.sentiment }}",
        "state_class": "measurement",
    },
    "arousal": {
        "name": "Arousal",
        "icon": "mdi:pulse",
        "value_template": "{{ value_json.arousal }}",
        "state_class": "measurement",
    },
}


def discovery(topic: str) -> dict[str, str]:
    """Messages, by topic, that announce three sensors of the stream under `topic`.

    No words are among them, so that Home Assistant does not store what people say.
    """
    # Two topics must not become one name: what is replaced is written as its number.
    node = "dmd_live_" + re.sub(r"[^a-zA-Z0-9]", lambda found: f"_{ord(found.group()):x}_", topic)
    device = {
        "identifiers": [node],
        "name": f"DMD Live {topic}",
        "model": "DMD Live",
        "sw_version": __version__,
    }
    return {
        f"{_PREFIX}/sensor/{node}/{what}/config": json.dumps(
            {
                **sensor,
                "unique_id": f"{node}_{what}",
                "state_topic": f"{topic}/latest",
                "availability_topic": f"{topic}/state",
                "payload_available": "online",
                "payload_not_available": "offline",
                "device": device,
                "origin": {"name": "dmd-live", "sw_version": __version__},
            }
        )
        for what, sensor in _SENSORS.items()
    }
