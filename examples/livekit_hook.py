"""A LiveKit agent whose language model reads how the user sounds.

session = AgentSession(llm=..., tts=..., turn_handling={"turn_detection": "stt"})
await session.start(FeelingAgent(instructions=INSTRUCTIONS), room=ctx.room)

python examples/livekit_hook.py talk.mp4      (plays the file into the agent's speech-to-text and
                                               prints what its language model would read; needs
                                               `pip install livekit-agents`)
"""

import asyncio
import sys
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from typing import Any

import numpy as np
from dmd_live import AudioChunk, EmotionEvent, EmotionStream
from dmd_live.sources.fed import FedSource
from dmd_live.sources.file import FileSource

try:
    from livekit import rtc
    from livekit.agents import Agent, llm, stt
except ImportError as error:
    sys.exit(
        f"this example needs LiveKit Agents 1.8 or newer: pip install livekit-agents ({error})"
    )

INSTRUCTIONS = """You talk with people. Answer in one or two short sentences.
Each line of the user is what a person said. The brackets before it are a guess, by a small model,
of how they feel. Let it guide your tone; do not mention it, and do not rely on it."""


class FeelingAgent(Agent):
    """Hears with DMD Live. Transcripts have the words only; the language model reads
    `event.prompt()` of every utterance of the turn. `options` are those of `EmotionStream`."""

    def __init__(self, *, instructions: str, **options: Any) -> None:
        super().__init__(instructions=instructions)
        self._options = options
        self._turn: list[EmotionEvent] = []

    async def stt_node(
        self, audio: AsyncIterable[rtc.AudioFrame], model_settings: Any
    ) -> AsyncGenerator[stt.SpeechEvent, None]:
        """LiveKit calls it with the user's sound; it ends when the sound ends."""
        source = FedSource(pictures=False)
        async with EmotionStream(source=source, **self._options) as stream:
            feeding = asyncio.create_task(self._feed(audio, source))
            try:
                async for event in stream:
                    if event.text:
                        self._turn.append(event)
                        said = stt.SpeechData(language="en", text=event.text)
                        yield stt.SpeechEvent(stt.SpeechEventType.FINAL_TRANSCRIPT, "", [said])
                        yield stt.SpeechEvent(stt.SpeechEventType.END_OF_SPEECH)
            finally:
                feeding.cancel()

    async def on_user_turn_completed(
        self, turn_ctx: llm.ChatContext, new_message: llm.ChatMessage
    ) -> None:
        """LiveKit calls it before the language model answers."""
        if self._turn:
            new_message.content = ["\n".join(event.prompt() for event in self._turn)]
            self._turn = []

    async def _feed(self, audio: AsyncIterable[rtc.AudioFrame], source: FedSource) -> None:
        try:
            async for frame in audio:
                samples = np.frombuffer(frame.data, np.int16).reshape(-1, frame.num_channels)
                source.hear(samples, frame.sample_rate)
        finally:
            source.end()


async def frames(path: str) -> AsyncIterator[rtc.AudioFrame]:
    """Stands for the user's track in a room: a file's sound, in real time."""
    loop = asyncio.get_running_loop()
    with FileSource(path, realtime=True) as file:
        packets = file.packets()
        while (packet := await loop.run_in_executor(None, next, packets, None)) is not None:
            if isinstance(packet, AudioChunk):
                sound = (packet.samples * 32_767).astype(np.int16).tobytes()
                yield rtc.AudioFrame(sound, 16_000, 1, len(packet.samples))


async def main() -> None:
    """Print what the language model reads of each turn."""
    # A file has time; a conversation has less.
    agent = FeelingAgent(instructions=INSTRUCTIONS, stt_wait_ms=10_000)
    context = llm.ChatContext.empty()
    async for event in agent.stt_node(frames(sys.argv[1]), None):
        if event.type == stt.SpeechEventType.FINAL_TRANSCRIPT:
            message = llm.ChatMessage(role="user", content=[event.alternatives[0].text])
            await agent.on_user_turn_completed(context, message)
            print(message.text_content, flush=True)


if __name__ == "__main__":
    asyncio.run(main())
