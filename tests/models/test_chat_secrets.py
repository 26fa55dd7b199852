"""A server that repeats the key in what it says gets it into no error and no reason."""

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from models.chat import Chat, ServerError
from runtime.errors import ConfigError

KEY = "planted-fake-key-17"


@pytest.fixture
def ask(monkeypatch):
    """Asks a server that answers with this status, and repeats the header that it was sent."""
    monkeypatch.setenv("TEACHER_KEY", KEY)
    servers = []

    def asked(status):
        class Echo(BaseHTTPRequestHandler):
            def do_POST(self):
                text = json.dumps({"error": {"message": f"no: {self.headers['Authorization']}"}}).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, format, *args):
                pass

        server = HTTPServer(("127.0.0.1", 0), Echo)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        chat = Chat(
            "teacher",
            base_url=f"http://127.0.0.1:{server.server_port}/v1",
            model="m",
            api_key_env="TEACHER_KEY",
            temperature=0.0,
            max_tokens=8,
            seed=None,
            concurrency=1,
            retries=0,
            timeout=30.0,
        )

        async def run():
            async with chat:
                return await chat.ask([{"role": "user", "content": "hello"}])

        return asyncio.run(run())

    yield asked
    for server in servers:
        server.shutdown()
        server.server_close()


def test_the_key_is_in_no_error_of_the_server(ask):
    with pytest.raises(ServerError, match=r"AuthenticationError: .*Bearer \*\*\*") as caught:
        ask(401)
    assert KEY not in str(caught.value)


def test_the_key_is_in_no_reason_of_a_refusal(ask):
    reply = ask(400)
    assert reply.text is None and reply.reason.startswith("refused: ") and "Bearer ***" in reply.reason
    assert KEY not in reply.reason


def test_a_key_in_place_of_the_name_of_its_variable_is_not_repeated():
    values = {
        "base_url": "http://x/v1",
        "model": "m",
        "temperature": 0.0,
        "max_tokens": 8,
        "seed": None,
        "concurrency": 1,
    }
    with pytest.raises(ConfigError, match="maybe the key itself") as caught:
        Chat("teacher", **values, api_key_env="sk-abcdefghij0123456789", retries=0, timeout=1.0)
    assert "sk-" not in str(caught.value)
