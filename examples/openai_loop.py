"""A conversation with any OpenAI-compatible server (llama.cpp, Ollama, vLLM), told how people feel.

python examples/openai_loop.py http://127.0.0.1:8080/v1 MODEL talk.mp4
                                              (or without file: webcam and microphone)

A key, where the server wants one, is read from OPENAI_API_KEY.
"""

import json
import os
import sys
import urllib.error
import urllib.request

from dmd_live import EmotionStream

INSTRUCTIONS = """You are a robot that talks with people. Answer in one or two short sentences.
Each line of the user is what a person said. The brackets before it are a guess, by a small model,
of how they feel. Let it guide your tone; do not mention it, and do not rely on it."""
N_REMEMBERED = 20
TIMEOUT_S = 60.0


class Conversation:
    """What was said last, and the server that answers."""

    def __init__(self, base_url: str, model: str) -> None:
        self._url, self._model = f"{base_url.rstrip('/')}/chat/completions", model
        self._messages: list[dict[str, str]] = []

    def answer(self, line: str) -> str:
        """The server's answer to a line. Raises OSError or ValueError when there is none."""
        said = [*self._messages[-N_REMEMBERED:], {"role": "user", "content": line}]
        body = {
            "model": self._model,
            "messages": [{"role": "system", "content": INSTRUCTIONS}, *said],
        }
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get("OPENAI_API_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self._url, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as reply:
            try:
                text = str(json.load(reply)["choices"][0]["message"]["content"])
            except (KeyError, IndexError, TypeError) as error:
                raise ValueError("the server's answer is not a chat completion") from error
        self._messages = [*said, {"role": "assistant", "content": text}]
        return text


def main() -> None:
    """Print what people say and what the server answers."""
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    conversation = Conversation(sys.argv[1], sys.argv[2])
    devices = {"file": sys.argv[3]} if sys.argv[3:] else {"camera": 0, "microphone": "default"}
    with EmotionStream(**devices) as stream:
        for event in stream:
            if not event.text:
                continue
            print(event.prompt(), flush=True)
            try:
                answer = conversation.answer(event.prompt())
            except (OSError, ValueError) as error:  # the server is away: the next line tries again
                print(f"no answer: {error}", file=sys.stderr)
                continue
            with stream.muted():  # a robot speaks here, and shall not hear itself
                print(f"> {answer}", flush=True)


if __name__ == "__main__":
    main()
