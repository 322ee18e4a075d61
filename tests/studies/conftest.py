import threading

import pytest
from chat_endpoint import Endpoint
from huggingface_hub import constants


@pytest.fixture
def endpoint(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # the client then refuses this machine's endpoints, too
    stub = Endpoint()
    thread = threading.Thread(target=stub.server.serve_forever)
    thread.start()
    yield stub
    stub.server.shutdown()
    thread.join()
    stub.server.server_close()
