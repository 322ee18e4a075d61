"""A stub of an endpoint that speaks OpenAI's protocol, on this machine."""

import json
from http.server import BaseHTTPRequestHandler, HTTPServer


class Endpoint:
    """Speaks OpenAI's chat completion protocol: gives prepared replies, one by one, and keeps what it was sent."""

    def __init__(self):
        self.replies, self.requests, self.headers, self.status = [], [], [], 200
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                assert self.path == "/v1/chat/completions"
                endpoint.requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                endpoint.headers.append({name.lower(): text for name, text in self.headers.items()})
                message = {"role": "assistant", "content": endpoint.replies.pop(0)}
                choice = {"index": 0, "finish_reason": "stop", "message": message}
                usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
                reply = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "system_fingerprint": ""}
                body = json.dumps({**reply, "choices": [choice], "usage": usage}).encode()
                self.send_response(endpoint.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
