"""A Pipecat processor in the place of speech-to-text: words come with how they were said.

Pipeline([transport.input(), EmotionProcessor(), user_aggregator, llm, tts, transport.output()])

python examples/pipecat_processor.py talk.mp4     (plays the file through a pipeline; needs
                                                   `pip install pipecat-ai`)
"""

import asyncio
import sys
from typing import Any

import numpy as np
from dmd_live import AudioChunk, EmotionStream
from dmd_live.sources.fed import FedSource
from dmd_live.sources.file import FileSource

try:
    from pipecat.frames.frames import (
        BotStartedSpeakingFrame,
        BotStoppedSpeakingFrame,
        EndFrame,
        Frame,
        InputAudioRawFrame,
        InputImageRawFrame,
        TranscriptionFrame,
    )
    from pipecat.pipeline.pipeline import Pipeline
    from pipecat.pipeline.worker import PipelineWorker
    from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
    from pipecat.utils.time import time_now_iso8601
    from pipecat.workers.runner import WorkerRunner
except ImportError as error:
    sys.exit(f"this example needs Pipecat 1.14 or newer: pip install pipecat-ai ({error})")


class EmotionProcessor(FrameProcessor):
    """Takes sound and pictures, sends a TranscriptionFrame per utterance, and lets all frames pass.

    Its text is `event.prompt()`; the event itself is its `result`. While the bot speaks, nothing is
    heard. `options` are those of `EmotionStream`.
    """

    def __init__(self, *, user_id: str = "user", **options: Any) -> None:
        super().__init__()
        self._user_id = user_id
        self._source = FedSource()
        self._stream = EmotionStream(source=self._source, **options)
        self._reading: asyncio.Task[None] | None = None

    async def setup(self, setup: Any) -> None:
        """Load the models, while the other processors start."""
        await super().setup(setup)
        await self._stream.__aenter__()

    async def cleanup(self) -> None:
        """Release them."""
        await self._stream.__aexit__()
        await super().cleanup()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Hear, see, pass on."""
        await super().process_frame(frame, direction)
        if self._reading is None:
            self._reading = self.create_task(self._read(), "emotions")
        if isinstance(frame, InputAudioRawFrame):
            samples = np.frombuffer(frame.audio, np.int16).reshape(-1, frame.num_channels)
            self._source.hear(samples, frame.sample_rate)
        elif isinstance(frame, InputImageRawFrame) and frame.format == "RGB":
            width, height = frame.size
            self._source.see(np.frombuffer(frame.image, np.uint8).reshape(height, width, 3))
        elif isinstance(frame, BotStartedSpeakingFrame):
            self._stream.mute()
        elif isinstance(frame, BotStoppedSpeakingFrame):
            self._stream.unmute()
        elif isinstance(frame, EndFrame):  # what was said last goes before it
            self._source.end()
            await self._reading
        await self.push_frame(frame, direction)

    async def _read(self) -> None:
        async for event in self._stream:
            if event.type == "final" and event.text:
                frame = TranscriptionFrame(
                    event.prompt(), self._user_id, time_now_iso8601(), result=event, finalized=True
                )
                await self.push_frame(frame)


class Printer(FrameProcessor):
    """Stands for the rest of a pipeline."""

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Print transcriptions."""
        await super().process_frame(frame, direction)
        if isinstance(frame, TranscriptionFrame):
            print(frame.text, flush=True)
        await self.push_frame(frame, direction)


async def play(path: str, worker: PipelineWorker) -> None:
    """Stands for a transport: a file's sound and pictures as frames, in real time."""

    def frames() -> None:
        with FileSource(path, realtime=True) as file:
            for packet in file.packets():
                if isinstance(packet, AudioChunk):
                    sound = (packet.samples * 32_767).astype(np.int16).tobytes()
                    frame: Frame = InputAudioRawFrame(sound, 16_000, 1)
                else:
                    height, width, _ = packet.rgb.shape
                    frame = InputImageRawFrame(packet.rgb.tobytes(), (width, height), "RGB")
                asyncio.run_coroutine_threadsafe(worker.queue_frame(frame), loop).result()

    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, frames)
    await worker.queue_frame(EndFrame())


async def main() -> None:
    """Print one line per utterance."""
    hearing = EmotionProcessor(stt_wait_ms=10_000)  # a file has time; a conversation has less
    worker = PipelineWorker(
        Pipeline([hearing, Printer()]), cancel_on_idle_timeout=False, enable_rtvi=False
    )
    started = asyncio.Event()
    worker.event_handler("on_pipeline_started")(lambda *_: started.set())
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    running = asyncio.create_task(runner.run())
    await started.wait()
    await play(sys.argv[1], worker)
    await running


if __name__ == "__main__":
    asyncio.run(main())
