"""A small stand-in for an OpenAI-compatible server, run as its own process: `python chat_server.py LOG`.

Prints its port, then appends every request to LOG as one JSON line. What it answers depends on the words of the request:
`flaky` fails once with 500, `broken` always, `refuse` is a 400, `garbage` is no answer in the grammar, `silent` is empty.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

CHAIN = "<discriminate>positive: one warm word</discriminate><calibrate>said plainly</calibrate><answer>2.0</answer>"
failed = set()


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        with Path(sys.argv[1]).open("a") as log:
            log.write(
                json.dumps({"path": self.path, "key": self.headers["Authorization"], "body": json.loads(body)}) + "\n"
            )
        if "broken" in body or ("flaky" in body and body not in failed):
            failed.add(body)
            return self.reply(500, {"error": {"message": "out of memory"}})
        if "refuse" in body:
            return self.reply(400, {"error": {"message": "too many tokens"}})
        content = "Well, it depends." if "garbage" in body else "" if "silent" in body else CHAIN
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
        usage = {"prompt_tokens": 70, "completion_tokens": 30, "total_tokens": 100}
        self.reply(
            200,
            {"id": "c", "object": "chat.completion", "created": 1, "model": "m-1", "choices": [choice], "usage": usage},
        )

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
