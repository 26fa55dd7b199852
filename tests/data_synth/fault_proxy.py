"""An OpenAI-compatible server that breaks down at a known rate: `python fault_proxy.py LOG --rate 0.3 --seed 0`.

Prints its port, then appends one JSON line to LOG for every request, before it answers:

    {"request": digest of the body, "words": the user's, "seed", "n", "attempt": 0, 1, ... of this body, "did": "answer" or a fault}

Which attempt at which body fails, and how, depends on the seed alone, never on the order in which requests come: a test with
the same requests sees the same faults. What it answers depends on the body alone: one chain for each choice, right for nine
bodies in ten (`chain`).
"""

import argparse
import asyncio
import hashlib
import json
import random
from collections import Counter
from contextlib import suppress
from pathlib import Path

FAULTS = ("500", "429", "timeout", "cut", "garbage", "schema", "drip")
REASONS = {200: "OK", 429: "Too Many Requests", 500: "Internal Server Error"}


def digest(*values: object) -> int:
    """A number of 64 bits that depends on the values alone."""
    return int.from_bytes(hashlib.sha256(json.dumps(values, sort_keys=True).encode()).digest()[:8], "big")


def words(body: dict) -> str:
    """The text of the user's messages."""
    parts = [m["content"] for m in body["messages"] if m["role"] == "user"]
    flat = [p if isinstance(p, str) else " ".join(q["text"] for q in p if q["type"] == "text") for p in parts]
    return " ".join(flat)


def chain(body: dict, index: int) -> str:
    """Choice `index`: +2.0 for nine bodies in ten, else -2.0, in words of its own."""
    key = digest(body["messages"], body.get("seed"), index)
    verdict, answer = ("positive", "2.0") if key % 10 else ("negative", "-2.0")
    return f"<discriminate>{verdict}: cue {key:x}</discriminate><calibrate>said plainly</calibrate><answer>{answer}</answer>"


def completion(body: dict) -> dict:
    """The whole answer; media count 50 tokens each, and a schema of strings is filled in."""
    shape = body.get("response_format", {}).get("json_schema", {}).get("schema", {}).get("properties")
    texts = [json.dumps(dict.fromkeys(shape, "2.0")) if shape else chain(body, i) for i in range(body.get("n") or 1)]
    texts = [" ".join(text.split(" ")[: body.get("max_tokens")]) for text in texts]
    parts = [p for m in body["messages"] if not isinstance(m["content"], str) for p in m["content"]]
    prompt = len(words(body).split()) + 50 * sum(p["type"] != "text" for p in parts)
    written = sum(len(text.split()) for text in texts)
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "m-1",
        "choices": [
            {"index": i, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
            for i, text in enumerate(texts)
        ],
        "usage": {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written},
    }


class Server:
    """Answers or breaks down, and writes down which."""

    def __init__(self, log: Path, rate: float, seed: int, faults: tuple[str, ...]) -> None:
        self.log, self.rate, self.seed, self.faults = log.open("a", buffering=1), rate, seed, faults
        self.attempts: Counter[int] = Counter()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):  # the client hung up
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
                body = json.loads(await reader.readexactly(int(length.split(b":")[1])))
                if not await self.answer(body, reader, writer):
                    break
        writer.close()

    def decide(self, body: dict) -> str:
        """`answer`, or the fault of this attempt at this body; it is in the log when this returns."""
        key = digest(body)
        draw = random.Random(digest(self.seed, key, self.attempts[key]))
        did = draw.choice(self.faults) if draw.random() < self.rate else "answer"
        row = {"request": f"{key:x}", "words": words(body), "seed": body.get("seed"), "n": body.get("n") or 1}
        self.log.write(json.dumps(row | {"attempt": self.attempts[key], "did": did}) + "\n")
        self.attempts[key] += 1
        return did

    async def answer(self, body: dict, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection lives on."""
        whole = json.dumps(completion(body)).encode()
        match self.decide(body):
            case "answer":
                await send(writer, 200, whole)
            case "500":
                await send(writer, 500, b'{"error": {"message": "out of memory"}}')
            case "429":
                await send(writer, 429, b'{"error": {"message": "too many requests"}}', "retry-after-ms: 20\r\n")
            case "garbage":
                await send(writer, 200, whole[: len(whole) // 2])
            case "schema":
                await send(writer, 200, b'{"object": "chat.completion", "result": "ok"}')
            case "timeout":
                await reader.read(1)  # until the client hangs up
                return False
            case "cut":
                writer.write(head(200, len(whole)) + whole[: len(whole) // 2])
                await writer.drain()
                return False
            case "drip":
                writer.write(head(200, len(whole)))
                for i in range(len(whole)):
                    writer.write(whole[i : i + 1])
                    await writer.drain()
                    await asyncio.sleep(0.1)
        return True


def head(status: int, length: int, more: str = "") -> bytes:
    """The head of an HTTP answer of `length` bytes."""
    lines = f"HTTP/1.1 {status} {REASONS[status]}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n"
    return (lines + more + "\r\n").encode()


async def send(writer: asyncio.StreamWriter, status: int, content: bytes, more: str = "") -> None:
    """Send a whole answer."""
    writer.write(head(status, len(content), more) + content)
    await writer.drain()


async def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("log", type=Path)
    parser.add_argument("--rate", type=float, default=0.3, help="share of requests that fail, in [0, 1]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--port", type=int, default=0, help="0 for any that is free")
    parser.add_argument("--faults", default=",".join(FAULTS), help="which of them, with commas")
    args = parser.parse_args()
    chosen = Server(args.log, args.rate, args.seed, tuple(args.faults.split(",")))
    server = await asyncio.start_server(chosen.connected, "127.0.0.1", args.port)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
