"""A small stand-in for an OpenAI-compatible server, run as its own process: `python chat_server.py LOG [FEATURE ...]`.

Prints its port, then appends every request to LOG as one JSON line. What it answers depends on the words of the request:
`flaky` fails once with 500, `broken` always, `refuse` is a 400, `garbage` is no answer in the grammar, `silent` is empty.
What it answers else is CHAIN, in which a seed of its own is spelt, so that each request that names none gets another text.

Every FEATURE (n, schema, seed, max_tokens, usage, audio, image, video, sound, file) is one that it ignores without a word; with
`-FEATURE` (n, schema, audio, image, video) it answers a request for it with 400. `sound` is a video's own track.
"""

import base64
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path

CHAIN = (
    "<discriminate>positive: one warm word</discriminate><calibrate>said plainly {seed}</calibrate><answer>2.0</answer>"
)
LOG, IGNORED = Path(sys.argv[1]), {name for name in sys.argv[2:] if name[0] != "-"}
REFUSED = {name[1:] for name in sys.argv[2:] if name[0] == "-"}
failed: set[str] = set()
numbers = count()


def asked(body):
    """The features that a request uses."""
    parts = [p for m in body["messages"] if not isinstance(m["content"], str) for p in m["content"]]
    names = {"audio" if p["type"] == "input_audio" else p["type"].removesuffix("_url") for p in parts} - {"text"}
    return names | ({"n"} if body.get("n", 1) > 1 else set()) | ({"schema"} if "response_format" in body else set())


def sounding(body):
    """Whether a video comes with a track: an mp4 file with an aac track says so in these letters."""
    urls = (p["video_url"]["url"] for m in body["messages"] for p in m["content"] if "video_url" in p)
    return any(b"mp4a" in base64.b64decode(url.partition(",")[2]) for url in urls)


def prompt_tokens(body):
    """70, 50 more for each medium that is looked at, and 30 for a track where `use_audio_in_video` is set."""
    used = (asked(body) - IGNORED) & {"audio", "image", "video"}
    inside = body.get("mm_processor_kwargs", {}).get("use_audio_in_video") and "sound" not in IGNORED and sounding(body)
    return 70 + 30 * bool(inside) + (0 if "file" in IGNORED and "file://" in json.dumps(body) else 50 * len(used))


def text(body, index):
    seed = body["seed"] + index if "seed" in body and "seed" not in IGNORED else next(numbers) + 1000
    if "response_format" in body and "schema" not in IGNORED:
        fields = body["response_format"]["json_schema"]["schema"]["properties"]
        good = {"verdict": "positive", "answer": 2.0}
        return json.dumps({name: good.get(name, kind.get("enum", ["a warm word"])[0]) for name, kind in fields.items()})
    chain = CHAIN.format(seed=seed)
    return chain if body["max_tokens"] > 8 else f"up {seed}"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        raw = self.rfile.read(int(self.headers["Content-Length"])).decode()
        body = json.loads(raw)
        with LOG.open("a") as log:
            log.write(json.dumps({"path": self.path, "key": self.headers["Authorization"], "body": body}) + "\n")
        if "broken" in raw or ("flaky" in raw and raw not in failed):
            failed.add(raw)
            return self.reply(500, {"error": {"message": "out of memory"}})
        if "refuse" in raw or asked(body) & REFUSED:
            return self.reply(400, {"error": {"message": "too many tokens"}})
        n = 1 if "n" in IGNORED else body.get("n", 1)
        texts = [
            "Well, it depends." if "garbage" in raw else "" if "silent" in raw else text(body, i) for i in range(n)
        ]
        written = 30 * n if body["max_tokens"] > 8 or "max_tokens" in IGNORED else 2 * n
        answer = {"id": "c", "object": "chat.completion", "created": 1, "model": "m-1", "choices": []}
        for i, content in enumerate(texts):
            message = {"role": "assistant", "content": content}
            answer["choices"].append({"index": i, "finish_reason": "stop", "message": message})
        if "usage" not in IGNORED:
            prompt = prompt_tokens(body)
            usage = {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}
            answer["usage"] = usage
        self.reply(200, answer)

    def reply(self, status, value):
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("retry-after-ms", "10")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
