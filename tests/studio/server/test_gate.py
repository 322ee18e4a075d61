"""What reaches Gradio: no address is fetched for a visitor, whatever argument of whatever route it is in."""

import io
import itertools
import json
import re
import socket

import gradio as gr
import httpx
import pytest
import safehttpx
from gradio import processing_utils
from gradio_client import Client
from gradio_client.exceptions import AppError
from PIL import Image
from scripts import free_port

from cbsae_hub.studio import LAUNCH, build, page
from cbsae_hub.studio.server import downloads
from cbsae_hub.studio.server.blocks import Page, complete, contents
from cbsae_hub.studio.server.gate import HEADERS, MAX_BODY

pytestmark = pytest.mark.slow

FOREIGN = "http://files.example/x.png"
META = {"_type": "gradio.FileData"}
FETCHERS = [
    (processing_utils, name)
    for name in (
        "async_ssrf_protected_download", "async_ssrf_protected_get", "ssrf_protected_download", "save_url_to_cache",
    )
] + [(safehttpx, "get"), (safehttpx, "async_validate_url")]  # fmt: skip
NEVER = (
    "file=http://files.example/x.png", "file/http://files.example/x.png", "file=/etc/passwd", "file=app.py",
    "proxy=https://files.hf.space/x", "deep_link?session_hash=a", "run-history/buckets", "runs", "dev/reload",
    "custom_component/a/client/component/index.js", "stream/a/b/1/playlist-file", "token", "user",
)  # fmt: skip


@pytest.fixture(scope="module")
def patch(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))
        yield patch


@pytest.fixture(scope="module")
def fetched(patch):
    """What the server has tried to fetch, or only to find, since the test began."""
    told, find = [], socket.getaddrinfo

    def recorder(name):
        def record(*given, **named):
            told.append((name, *given))
            raise OSError("nothing is fetched here")

        return record

    def getaddrinfo(host, *given, **named):
        if "example" in str(host):
            told.append(("getaddrinfo", host))
            raise OSError("nothing is looked up here")
        return find(host, *given, **named)

    for module, name in FETCHERS:
        patch.setattr(module, name, recorder(name))
    patch.setattr(socket, "getaddrinfo", getaddrinfo)
    return told


@pytest.fixture(autouse=True)
def forget(fetched):
    fetched.clear()


def serve(blocks):
    port = free_port()
    blocks.launch(server_port=port, prevent_thread_lock=True, quiet=True, **LAUNCH)
    return f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def address(serving, patch, fetched):
    """The page with all of its handlers, in this process."""
    patch.setattr(page, "Serving", lambda *_: serving)
    blocks = build("emoji-cbsae")
    yield serve(blocks)
    blocks.close(verbose=False)


@pytest.fixture(scope="module")
def client(address):
    with httpx.Client(base_url=f"{address}/gradio_api/", timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def handlers(address):
    return httpx.get(f"{address}/config").json()["dependencies"]


def answer(client, name, body):
    headers = {"Content-Type": "application/json"}
    event = client.post(f"call/{name}", content=json.dumps(body), headers=headers).json()["event_id"]
    return client.get(f"call/{name}/{event}").text


def png(colour="red"):
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), colour).save(buffer, "PNG")
    return buffer.getvalue()


def upload(client, name="a.png"):
    return client.post("upload", files={"files": (name, png())}).json()[0]


# ------------------------------------------------------------------------------------------------ files of arguments


@pytest.mark.parametrize(("kind", "fetches"), [(gr.Blocks, True), (Page, False)])
def test_gradio_alone_would_fetch_what_the_gate_refuses(fetched, kind, fetches):
    with kind() as blocks:
        text = gr.Textbox()
        text.submit(lambda text: text, text, text, api_name="echo")
    try:
        url = serve(blocks)
        with httpx.Client(base_url=f"{url}/gradio_api/", timeout=20) as client:
            sent = client.post("call/echo", json={"data": [{"path": FOREIGN, "meta": META}]})
            if fetches:
                client.get(f"call/echo/{sent.json()['event_id']}")
            client.get(f"file={FOREIGN}")
    finally:
        blocks.close(verbose=False)
    assert [FOREIGN in told or "files.example" in told for told in fetched] == ([True] * 2 if fetches else [])


def test_no_argument_of_any_handler_on_any_route_is_fetched(client, handlers, fetched):
    payloads = [{"path": FOREIGN, "meta": META}, {"path": None, "url": FOREIGN, "meta": META}, {"url": FOREIGN}]
    tried = 0
    for handler, payload in itertools.product(handlers, payloads):
        name, count = handler["api_name"], len(handler["inputs"])
        for place in range(count):
            data = [None] * count
            data[place] = [{"deep": payload}] if tried % 2 else payload
            join = {"data": data, "fn_index": handler["id"], "session_hash": "visitor"}
            routes = {
                "queue/join": join, f"run/{name}": join, f"call/{name}": {"data": data},
                f"call/{name}/": {"data": data}, f"call/v2/{name}": {f"p{i}": value for i, value in enumerate(data)},
            }  # fmt: skip
            for route, body in routes.items():
                assert client.post(route, json=body).status_code in (403, 404)
                tried += 1
        join = {"data": [None] * count, "fn_index": handler["id"], "session_hash": "a", "event_data": payload}
        assert client.post("queue/join", json=join).status_code == 403
    assert tried > 500 and fetched == []


@pytest.mark.parametrize("path", [FOREIGN, "/etc/passwd", "app.py", "", None, 7, ["/etc/passwd"], {"path": "x"}])
def test_assistants_cannot_name_files_either(client, fetched, path):
    arguments = {"query": {"path": path, "meta": META}}
    for name, method in (("find_neurons", "tools/call"), ("x", "prompts/get"), ("x", "resources/read")):
        call = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {"name": name, "arguments": arguments}}
        for route in ("mcp", "mcp/", "mcp/http/", "mcp/messages/?session_id=" + "0" * 32):
            headers = {"Accept": "application/json, text/event-stream"}
            assert client.post(route, json=call, headers=headers, follow_redirects=True).status_code == 403
    assert fetched == []


@pytest.mark.parametrize("route", NEVER)
def test_what_the_page_does_not_need_is_closed(client, address, fetched, route):
    for method in ("GET", "POST", "HEAD"):
        assert client.request(method, route).status_code in (403, 404)
    assert fetched == []


@pytest.mark.parametrize(
    "route", ["process_recording", "component_server", "component_server/", "vibe-edit", "stream/a", "stream/a/close",
              "run-history/connect", "api/find_neurons", "//queue/join", "../monitoring/summary", "../login"],
)  # fmt: skip
def test_what_would_take_data_is_closed(client, route):
    assert client.post(route, json={"data": []}).status_code == 404
    assert client.get(f"../{route}").status_code == 404


def test_an_upload_is_read_and_shown_and_nothing_but_uploads(client, fetched, tmp_path):
    mine = upload(client)
    body = {"data": [None, {"path": mine, "url": FOREIGN, "orig_name": "a.png", "meta": META}, True, None]}
    assert "event: complete" in answer(client, "inspect", body)
    assert client.get(f"file={mine}").content == png()
    other = mine.replace("a.png", "b.png")
    with open(other, "wb") as file:  # beside the upload, but nobody sent it
        file.write(png())
    for path in (other, f"/tmp/..{mine}", f"{mine}/../b.png", str(tmp_path)):
        assert client.get(f"file={path.replace('..', '%2e%2e')}").status_code == 403
        assert client.post("call/inspect", json={"data": [None, {"path": path, "meta": META}]}).status_code == 403
    assert fetched == []


def test_what_was_checked_is_what_gradio_reads(client, fetched):
    mine = json.dumps(upload(client))
    foreign, meta = json.dumps(FOREIGN), json.dumps(META)
    for pair in (
        f'"path": {mine}, "path": {foreign}',
        f'"path": {foreign}, "path": {mine}',
        f'"p\\u0061th": {foreign}',
    ):
        body = f'{{"data": [null, {{{pair}, "meta": {meta}}}]}}'
        for encoding in ("utf-8", "utf-16", "utf-32"):
            for kind in ("application/json", "text/plain", "multipart/form-data; boundary=x"):
                headers = {"Content-Type": kind}
                assert client.post("call/inspect", content=body.encode(encoding), headers=headers).status_code == 403
    for broken in (b"{", b"\xff\xfe{", b'{"data": ["\\ud800"]}', b'{"data": [' + b"[" * 100_000):
        assert client.post("call/inspect", content=broken).status_code == 400
    assert client.post("call/inspect", content=b" " * (MAX_BODY + 1)).status_code == 413
    assert fetched == []


# --------------------------------------------------------------------------------------------------------- answers


def test_all_answers_have_headers_and_text_is_compressed(address, client):
    for url in (
        address,
        f"{address}/config",
        f"{address}/theme.css",
        f"{address}/nothing",
        f"{address}/gradio_api/info",
    ):
        told = httpx.get(url, headers={"Accept-Encoding": "gzip"})
        assert HEADERS.items() <= {name.title(): value for name, value in told.headers.items()}.items()
        assert told.headers.get("content-encoding") == (None if "nothing" in url else "gzip")
    assert "frame-ancestors" not in HEADERS["Content-Security-Policy"], "the Hub shows Spaces in a frame"
    with httpx.stream("GET", address, headers={"Accept-Encoding": "gzip"}) as sent:
        assert sum(len(part) for part in sent.iter_raw()) < 200_000
    assert "content-encoding" not in httpx.get(address, headers={"Accept-Encoding": "identity"}).headers


def test_files_of_a_neuron_may_be_shown_anywhere_and_pictures_are_not_compressed_again(address):
    elsewhere = {"Accept-Encoding": "gzip", "Origin": "https://elsewhere.example"}
    sent = {kind: httpx.get(f"{address}/neuron/3.{kind}", headers=elsewhere) for kind in ("json", "png", "webp")}
    for told in sent.values():
        assert told.status_code == 200 and told.headers["access-control-allow-origin"] == "*"
        assert HEADERS.items() <= {name.title(): value for name, value in told.headers.items()}.items()
    assert [told.headers.get("content-encoding") for told in sent.values()] == ["gzip", None, None]
    assert sent["json"].json()["neuron"] == 3
    for path in ("3.svg", "x.json", "-1.json", "3.json/x", "٣.json", f"{'9' * 8}.json"):
        assert httpx.get(f"{address}/neuron/{path}").status_code == 404
    assert "access-control-allow-origin" not in httpx.get(f"{address}/config", headers=elsewhere).headers


def test_folders_of_the_server_are_in_no_answer(address, client, handlers, serving):
    told = [httpx.get(f"{address}/{path}").text for path in ("", "config", "gradio_api/info", "gradio_api/mcp/schema")]
    told += [
        answer(client, "filter", {"data": [None, "", "Name's score"]}),
        answer(client, "_code", {"data": ["use"] * 3}),
    ]
    roots = {str(downloads.folder()), str(processing_utils.get_upload_folder()), str(serving.models["emoji-cbsae"])}
    for root in (*roots, "/tmp/", "/root/", "site-packages"):
        assert not any(root in text for text in told)


def test_downloads_are_those_that_the_page_offers(address):
    html = httpx.get(address).text
    for name in ("emoji-cbsae.csv", "recipe.json"):
        link = re.search(rf"download/[\w-]+/{re.escape(name)}", html)[0]
        sent = httpx.get(f"{address}/{link}")
        assert sent.status_code == 200 and f'attachment; filename="{name}"' in sent.headers["content-disposition"]
    (downloads.folder() / "secret").write_text("not for visitors")
    for path in (
        "../secret",
        "a/../../secret",
        "%2e%2e/secret",
        "emoji-cbsae/%2e%2e",
        "emoji-cbsae/%2e%2e%2f%2e%2e%2fsecret",
    ):
        assert httpx.get(f"{address}/download/{path}").status_code == 404


# ------------------------------------------------------------------------------------------------- public endpoints


def test_what_has_a_default_may_be_left_out(client):
    found = json.loads(answer(client, "find_neurons", {"data": ["pizza"]}).split("data: ")[1])
    assert found == json.loads(answer(client, "find_neurons", {"data": ["pizza", 10, ""]}).split("data: ")[1])
    assert 'find_neurons takes query, limit = 10, model = \\"\\"' in answer(client, "find_neurons", {"data": []})
    assert "it was given 4 of them" in answer(client, "find_neurons", {"data": ["pizza", 10, "", 1]})


def test_nobody_passes_the_queue_by(client):
    assert client.post("run/find_neurons", json={"data": ["pizza", 10, ""]}).status_code == 404


def test_arguments_are_completed():
    def endpoint(a, b=2, *, c="x"):
        return a, b, c

    assert complete("endpoint", endpoint, [1]) == [1, 2, "x"] and complete("endpoint", endpoint, [1, 5, "y"])[1] == 5
    for given in ([], [1, 2, 3, 4]):
        with pytest.raises(gr.Error, match='takes a, b = 2, c = "x", in this order'):
            complete("endpoint", endpoint, given)


def test_assistants_get_json_and_pictures():
    drawn = {"original": {"picture": "data:image/webp;base64,AAAA", "concept": None}, "alone": [True, "größer"]}
    text, picture = contents([drawn])
    assert json.loads(text.text) == {"original": {"picture": "image 1", "concept": None}, "alone": [True, "größer"]}
    assert (picture.type, picture.mimeType, picture.data) == ("image", "image/webp", "AAAA")


@pytest.mark.parametrize("odd", [None, 7, "x" * 500, "3", [], [[]], {}, {"a": 1}, True, 1e30, float("nan"), "\0"])
def test_whatever_is_sent_the_answer_is_a_sentence(client, odd):
    for name, sane in (
        ("find_neurons", ["pizza", 10, ""]), ("neuron_info", [1, ""]), ("model_info", [""]),
        ("encode_image", ["white", 10, ""]), ("steer_caption", ["white", "?", [], False, "set", False, "", ""]),
        ("steer_image", ["white", [], 0, 5, False, "set", False, ""]),
        ("steer_clip", ["white", [], False, "set", False, "", False, ""]),
        ("suppress", [["s1"], ["white"], [], 0.1, ""]),
    ):  # fmt: skip
        for place in range(len(sane)):
            data = [*sane[:place], odd, *sane[place + 1 :]]
            told = answer(client, name, {"data": data})
            assert "event: complete" in told or re.search(r'"error": "\w.{10}', told), (name, data, told)


def test_gradios_own_client_works_through_the_gate(address):
    client = Client(address, verbose=False)
    assert client.predict("pizza", api_name="/find_neurons")["verdict"]
    with pytest.raises(AppError, match="There is no neuron 99999"):
        client.predict(99999, api_name="/neuron_info")
    assert "find_neurons" in client.view_api(return_format="str")
