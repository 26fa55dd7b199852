"""A stand-in for a judge, run as its own process: `python judge_server.py LOG [SHARE SEED]`.

Prints its port, then appends every request to LOG as one JSON line. It counts words of both sides in the explanation and
answers positive, negative or neutral, or the label that the explanation spells in capitals; what else it does depends on the
explanation: `broken` is a 500, `busy` a 429, `refuse` a 400, `garbage` no JSON, `plain` a page of text, `shapeless` another
JSON, `silent` an empty answer, `slow` one after two seconds, `chatty` a sentence, `wobbly` whatever label is told first.

With SHARE and SEED that share of the requests fails with 500, decided by a hash of request and seed: at random as far as the
words go, and the same in every run, in whatever order requests arrive.
"""

import hashlib
import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

UP = {"grin", "smile", "smiling", "high", "bright", "rising", "up", "positive"}
DOWN = {"scowl", "frown", "frowning", "low", "dull", "falling", "down", "negative"}
SHARE, SEED = (float(sys.argv[2]), sys.argv[3]) if len(sys.argv) > 2 else (0.0, "")


def opinion(explanation, labels):
    if "chatty" in explanation:
        return f"I would say {labels[0]}."
    if "wobbly" in explanation:
        return labels[0]
    for label in labels:
        if label.upper() in explanation:
            return f"{label.capitalize()}."
    words = explanation.split()
    sign = sum(w in UP for w in words) - sum(w in DOWN for w in words)
    return "positive" if sign > 0 else "negative" if sign < 0 else "neutral" if words else "unclear"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        body = json.loads(raw)
        with Path(sys.argv[1]).open("a") as log:
            log.write(json.dumps({"key": self.headers["Authorization"], "body": body}) + "\n")
        system, user = body["messages"]
        labels = next(x for x in system["content"].split("\n") if x.startswith("Labels: "))[8:].split(", ")
        explanation = user["content"][-1]["text"].removeprefix("<explanation>").removesuffix("</explanation>")
        chance = int(hashlib.sha256(SEED.encode() + raw).hexdigest()[:8], 16) / 16**8
        for word, status in (("broken", 500), ("busy", 429), ("refuse", 400)):
            if word in explanation:
                return self.reply(status, {"error": {"message": f"it is {word}"}})
        if chance < SHARE:
            return self.reply(500, {"error": {"message": "out of memory"}})
        if "garbage" in explanation:
            return self.send(200, "application/json", b'{"choices": [')
        if "plain" in explanation:
            return self.send(200, "text/html", b"<html>login</html>")
        if "shapeless" in explanation:
            return self.reply(200, {"answer": 1})
        if "slow" in explanation:
            time.sleep(2)
        content = "" if "silent" in explanation else opinion(explanation, labels)
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
        self.reply(200, {"id": "c", "object": "chat.completion", "created": 1, "model": "j-1", "choices": [choice]})

    def reply(self, status, value):
        self.send(status, "application/json", json.dumps(value).encode())

    def send(self, status, kind, content):
        self.send_response(status)
        self.send_header("Content-Type", kind)
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
