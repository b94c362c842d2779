"""Emotions beside other work in one asyncio program.

python examples/asyncio_app.py talk.mp4       (or no argument: webcam and microphone)
"""

import asyncio
import sys

from dmd_live import EmotionStream


async def blink() -> None:
    """Anything else that the program does."""
    while True:
        await asyncio.sleep(1.0)
        print("blink")


async def main() -> None:
    """Print one line per utterance while the eyes blink."""
    devices = {"file": sys.argv[1]} if sys.argv[1:] else {"camera": 0, "microphone": "default"}
    eyes = asyncio.create_task(blink())
    async with EmotionStream(**devices) as stream:
        async for event in stream:
            print(f"{event.emotion} {event.confidence:.0%}: {event.text}")
    eyes.cancel()


if __name__ == "__main__":
    asyncio.run(main())
