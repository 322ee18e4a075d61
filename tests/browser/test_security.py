"""What a hostile client tries: every handler is public, whatever the page shows."""

import base64
import io
import json
import re
import struct
import urllib.error
import urllib.request
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlencode

import anyio
import pytest
from actions import is_shown, open_tab, search, wait_for_basket
from http_client import answer_of, post, status_of
from known_words import strong_word, worked
from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client
from PIL import Image

from cbsae_hub.studio import LAUNCH

ROOT = Path(__file__).parents[2]
EVIL = "<img src=x onerror=alert(1)>"
STATE = None  # the first model, an empty basket, a white picture


def upload(address, content, name="a.png"):
    """Sends a file as a browser does: status and path."""
    boundary = "cbsae"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    body = head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(f"{address}/gradio_api/upload", body, headers), timeout=60
        ) as answer:
            return answer.status, json.load(answer)[0]
    except urllib.error.HTTPError as error:
        return error.code, None


def bomb(side):
    """A PNG of a few bytes that promises side x side pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 999)) + chunk(b"IEND", b"")


def refused(answer):
    """Whether a call failed without telling what is nobody's business."""
    return "event: error" in answer and not any(word in answer for word in ("Traceback", "File ", str(ROOT), "root:"))


# -------------------------------------------------------------------------------------------------- files and hosts


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "app.py", "../pyproject.toml", "hub/emoji-sae/config.json", str(ROOT / "app.py"),
     "http://127.0.0.1:1/x", "http://169.254.169.254/latest/meta-data"],
)  # fmt: skip
def test_files_and_other_hosts_are_not_served(address, path):
    assert status_of(f"{address}/gradio_api/file={path}") in (403, 404)


@pytest.mark.parametrize("path", ["/etc/passwd", "app.py", "hub/emoji-sae/config.json", "http://127.0.0.1:1/x.png"])
@pytest.mark.parametrize(
    ("handler", "before"), [("inspect", [STATE]), ("choose_upload", [STATE]), ("choose_upload_1", [STATE])]
)
def test_uploads_cannot_be_named_by_path(address, path, handler, before):
    for payload in ({"path": path, "meta": {"_type": "gradio.FileData"}}, {"url": path, "path": ""}, path):
        assert refused(post(address, handler, [*before, payload, *([True] if handler == "inspect" else [])]))


@pytest.mark.parametrize(
    "image", ["http://127.0.0.1:1/x.png", "file:///etc/passwd", "/etc/passwd", "s99999", "", "%00", "größer"]
)
def test_no_address_is_fetched_for_an_endpoint(address, image):
    for handler, rest in (("encode_image", [5]), ("steer_caption", ["What?", []]), ("steer_image", [[]])):
        assert refused(post(address, handler, [image, *rest]))


def test_uploads_are_limited_and_bombs_do_not_go_off(address):
    assert upload(address, b"x" * 9_000_000)[0] == 413
    for side in (6000, 60_000):
        status, path = upload(address, bomb(side))
        assert status == 200
        for handler in ("inspect", "choose_upload"):
            payload = {"path": path, "meta": {"_type": "gradio.FileData"}}
            more = [True] if handler == "inspect" else []
            assert refused(post(address, handler, [STATE, payload, *more]))
        assert refused(post(address, "encode_image", [base64.b64encode(bomb(side)).decode(), 5]))
    for content, name in ((b"<svg onload=alert(1)>", "a.svg"), (b"<script>alert(1)</script>", "a.html")):
        status, path = upload(address, content, name)
        with urllib.request.urlopen(f"{address}/gradio_api/file={path}", timeout=20) as answer:
            assert "attachment" in answer.headers["Content-Disposition"]


def test_nothing_is_switched_on_that_opens_a_door():
    """gr.load, deep links, file explorers and tunnels have had holes; none of them is used."""
    assert LAUNCH["allowed_paths"] == [] and LAUNCH["share"] is False and LAUNCH["show_error"] is False
    source = "\n".join(path.read_text() for path in (ROOT / "cbsae_hub" / "studio").glob("*.py"))
    doors = ("gr.load(", "DeepLinkButton", "FileExplorer", "trust_remote_code", "import pickle", "torch.load", "eval(")
    for door in (*doors, 'datatype="html"', "sanitize_html=False"):
        assert door not in source
    fetching = r"import (requests|httpx)|from (requests|httpx)|urlopen|urllib\.request"
    assert not re.search(fetching, source), "nobody fetches anything"


def test_a_stranger_reaches_the_page_only_where_it_is_meant():
    source = (ROOT / "app.py").read_text()
    assert 'default="0.0.0.0" if on_space else "127.0.0.1"' in source


# --------------------------------------------------------------------------------------------------- bad arguments


@pytest.mark.parametrize("neuron", ["-1", "999999", "1e3", "../x", None, [1], {"a": 1}, "0\x00", "٣٣٣٣٣", True])
def test_neurons_are_checked_again(address, neuron):
    assert refused(post(address, "pick", [STATE, "pizza", neuron]))
    assert refused(post(address, "neuron_info", [neuron]))


@pytest.mark.parametrize("query", ["x" * 100_000, None, 7, ["a"], {"a": "b"}])
def test_odd_queries_are_survived(address, query):
    assert "Traceback" not in post(address, "search", [STATE, query])
    assert "Traceback" not in post(address, "filter", [STATE, query, "Name's score"])
    assert refused(post(address, "find_neurons", [query]))
    assert status_of(address) == 200


@pytest.mark.parametrize("model", ["../emoji-dino", "/etc", "someone/else", "hub/emoji-sae", 7, ["emoji-sae"], {}])
def test_models_are_those_of_the_allow_list(address, model):
    assert refused(post(address, "search", [model, "pizza"]))
    for handler, arguments in (("find_neurons", ["pizza", 5]), ("neuron_info", [1]), ("model_info", [])):
        assert refused(post(address, handler, [*arguments, model]))


@pytest.mark.parametrize(
    "edits",
    [
        "3", {"neuron": 3}, [3], [{"neuron": 3}], [{"neuron": 3, "value": 1, "op": "x"}],
        [{"neuron": 3, "value": float("nan")}], [{"neuron": 3, "value": 1e30}], [{"neuron": 3, "value": "1"}],
        [{"neuron": "3", "value": 1}], [{"neuron": 99999, "value": 1}], [{"neuron": 3, "value": 1}] * 2,
        [{"neuron": i, "value": 1} for i in range(6)], None,
    ],
)  # fmt: skip
def test_edits_are_checked(address, edits):
    assert refused(post(address, "steer_caption", ["white", "What is it?", edits]))
    assert refused(post(address, "steer_image", ["white", edits]))


@pytest.mark.parametrize(
    ("handler", "arguments"),
    [
        ("find_neurons", ["pizza", 0]), ("find_neurons", ["pizza", 51]), ("find_neurons", ["pizza", 2.5]),
        ("find_neurons", ["pizza", "5"]), ("encode_image", ["white", 1000]),
        ("steer_caption", ["white", "x" * 201, []]), ("steer_caption", ["white", "<image> what?", []]),
        ("steer_caption", ["white", "what?", [], "yes"]), ("steer_caption", ["white", "what?", [], False, "scale"]),
        ("steer_caption", ["white", "what?", [], False, "set", False, "x" * 41]),
        ("steer_image", ["white", [], -1]), ("steer_image", ["white", [], 2**40]), ("steer_image", ["white", [], 0.5]),
        ("steer_image", ["white", [], 0, 31]), ("steer_image", ["white", [], 0, 4]),
        ("steer_image", ["white", [], 0, 1e9]), ("steer_image", ["white", [], 0, float("nan")]),
    ],
)  # fmt: skip
def test_costs_are_limited_on_the_server(address, handler, arguments):
    assert refused(post(address, handler, arguments))


@pytest.mark.parametrize(
    ("place", "value"), [(-3, -1), (-3, float("inf")), (-2, 5), (-2, 0), (-1, 1000), (-1, 1), (3, "nowhere"), (4, "x")]
)
def test_sliders_and_choices_are_checked_on_the_server_too(address, place, value):
    arguments = [STATE, STATE, STATE, "In the picture", "set the neuron", False, "", 0, 1, 5]
    arguments[place] = value
    assert refused(post(address, "draw", arguments))


def test_nobody_sees_what_is_kept_for_another(address):
    for key in ("", "x" * 22, None, 0):
        assert refused(post(address, "where", [STATE, key, True, None, "3"]))
    for basket in ("x", "3:1e9", "9999999:1", "3:1," * 7 + "3:1"):
        assert refused(
            post(address, "ask", [STATE, basket, "white", "?", "In the picture", "set the neuron", False, ""])
        )
    for words in (",".join(f"w{i}" for i in range(21)), "x" * 41, "", None, "?"):
        assert refused(post(address, "which", [STATE, words]))


def test_hidden_handlers_are_not_listed_and_eight_are(address):
    with urllib.request.urlopen(f"{address}/gradio_api/info", timeout=20) as answer:
        listed = json.load(answer)
    public = {"find_neurons", "neuron_info", "model_info", "encode_image", "steer_caption", "steer_image", "steer_clip",
              "suppress"}  # fmt: skip
    assert set(listed["named_endpoints"]) == {f"/{name}" for name in public} and not listed["unnamed_endpoints"]
    with urllib.request.urlopen(f"{address}/gradio_api/mcp/schema", timeout=20) as answer:
        tools = json.load(answer)
    assert {tool["name"] for tool in tools} == public
    assert all(tool["description"] and tool["inputSchema"] for tool in tools)
    assert not any(tool["meta"]["file_data_present"] for tool in tools), "no tool takes addresses of files"


# ------------------------------------------------------------------------------------------------------------- text


def test_what_is_typed_comes_back_as_text(address):
    for handler, arguments in (
        ("search", [STATE, EVIL]), ("which", [STATE, EVIL]), ("filter", [STATE, EVIL, "Name's score"]),
        ("ask", [STATE, STATE, STATE, EVIL, "In the picture", "set the neuron", False, EVIL]),
    ):  # fmt: skip
        answer = post(address, handler, arguments)
        assert "<img src=x" not in answer and "onerror=alert(1)>" not in answer.replace("&gt;", "")


def test_scripts_do_not_run_wherever_they_are_typed(visit):
    page = visit(f"?q={EVIL}&tab=find&ask={EVIL}&word={EVIL}&b=275:50.000")
    page.evaluate("() => { window.hits = 0; window.alert = () => { window.hits += 1; }; }")
    wait_for_basket(page, 1)
    search(page, EVIL)
    is_shown(page, "#verdict", "img src=x")
    open_tab(page, "Steer LLaVA")
    page.locator("#answers .cb-main").wait_for()
    page.get_by_role("button", name="More settings").first.click()
    page.locator("#llava-word input, #llava-word textarea").first.fill(EVIL)
    page.locator("#ask").click()
    is_shown(page, "#answers .cb-probability", "img src=x")
    open_tab(page, "Your concepts")
    page.locator("#own-words textarea").fill(EVIL)
    page.locator("#own-check").click()
    is_shown(page, "#own-report tr", "img src=x")
    open_tab(page, "Map and scores")
    page.locator("#rows-words input, #rows-words textarea").first.fill(EVIL)
    page.keyboard.press("Enter")
    is_shown(page, "#rows .cb-hint", "^0 neurons")
    assert page.evaluate("window.hits") == 0
    assert page.locator("img[src=x]").count() == 0


FORM = "<form action=//e.example>Password:<input name=p></form>"
TOAST = "[data-testid=toast-body], .toast-body"


def test_a_link_puts_nothing_of_a_stranger_on_the_page(visit, address):
    for parameters in ({FORM: "1"}, {"<img src=//e.example/x>": "1", "utm_source": EVIL, "fbclid": FORM, "gclid": "1"}):
        page = visit(f"?{urlencode(parameters)}")
        page.locator(".cb-example").first.wait_for()
        page.wait_for_timeout(1000)
        assert page.locator(TOAST).count() == 0, "what is nobody's parameter is left alone"
    page = visit(f"?{urlencode({'m': FORM, 'tab': EVIL, FORM: FORM, 'fbclid': '1'})}")
    is_shown(page, TOAST, "does not have the model of this link")
    is_shown(page, TOAST, r"could not be read: tab\.")
    assert page.locator("input[name=p], form[action*=example], img[src=x]").count() == 0


def test_toasts_show_what_was_typed_as_text(visit):
    page = visit("?tab=own")
    page.locator("#own-words textarea").fill(FORM)
    page.locator("#own-check").click()
    is_shown(page, TOAST, re.escape(FORM[:40]))
    assert page.locator("input[name=p], form[action*=example]").count() == 0


def test_the_policy_holds_in_the_browser(visit):
    page = visit()
    blocked = page.evaluate("""async () => {
      const blocked = new Set();
      document.addEventListener('securitypolicyviolation', (event) => blocked.add(event.effectiveDirective));
      document.body.insertAdjacentHTML('beforeend', '<img src="//e.example/x">'
        + '<form action="//e.example/y" id="evil" target="_blank">');
      document.querySelector('#evil').submit();
      await fetch('//e.example/z').catch(() => null);
      await new Promise((done) => setTimeout(done, 500));
      return [...blocked].sort(); }""")
    assert blocked == ["connect-src", "form-action", "img-src"]
    page.complaints = [told for told in page.complaints if "Content Security Policy" not in told]
    page.hosts = {host for host in page.hosts if "example" not in host}  # asked for, and blocked


def test_the_page_works_in_a_frame_of_another_host(visit, address, tmp_path):
    frame = f'<iframe src="{address}/?tab=find&q=pizza" style="width: 1200px; height: 800px"></iframe>'
    (tmp_path / "index.html").write_text(frame)
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as hub:
        Thread(target=hub.serve_forever, daemon=True).start()
        page = visit()
        page.goto(f"http://localhost:{hub.server_port}/index.html")  # to a browser, another host than 127.0.0.1
        framed = page.frame_locator("iframe")
        framed.locator("#verdict").filter(has_text="pizza").wait_for()
        framed.locator("#card h3").wait_for()
        page.hosts.discard(f"localhost:{hub.server_port}")
        page.complaints = [told for told in page.complaints if "favicon" not in told and "404" not in told]
        hub.shutdown()


def test_the_endpoints_are_described_on_the_page_as_they_are_listed(visit, address):
    with urllib.request.urlopen(f"{address}/gradio_api/info", timeout=20) as answer:
        listed = json.load(answer)["named_endpoints"]
    shown = visit("?tab=use").locator("#use-endpoints tbody tr")
    shown.first.wait_for()
    rows = shown.all_inner_texts()
    assert len(rows) == len(listed)
    for row, (name, endpoint) in zip(rows, listed.items()):
        assert row.startswith(f"{name[1:]}(")
        for parameter in endpoint["parameters"]:
            assert f"{parameter['parameter_name']}: " in row


# -------------------------------------------------------------------------------------------- the endpoints themselves


def test_endpoints_answer_as_documented(address):
    word, example = strong_word(), worked("word")
    found = answer_of(address, "find_neurons", word, 3)
    assert found["verdict"] == "strong" and f"“{word}” is what it finds best" in found["reason"]
    assert found["neurons"][0]["name"] == word and len(found["neurons"]) <= 3
    neuron = found["neurons"][0]["neuron"]
    told = answer_of(address, "neuron_info", neuron)
    assert told["neuron"] == neuron and told["strengths"]["recommended"] == [25.0, 50.0]
    assert len(told["neighbours"]) == 6 and told["examples"][0]["picture"].startswith("s")
    model = answer_of(address, "model_info")
    assert model["models"] == ["emoji-cbsae", "emoji-sae"] and model["steers"] == {
        "llava": "emoji-llava", "unclip": "emoji-unclip",
    }  # fmt: skip
    assert str(ROOT) not in json.dumps(model)
    seen = answer_of(address, "encode_image", told["examples"][0]["picture"], 50)
    fires = next(one for one in seen["neurons"] if one["neuron"] == neuron)
    assert fires["activation"] == pytest.approx(told["examples"][0]["activation"], rel=0.2)
    edits = [{"neuron": example["neuron"], "value": 50.0}]
    said = answer_of(address, "steer_caption", "white", "", edits)
    assert said["steered"]["answer"] == example["name"] == said["word"] != said["original"]["answer"]
    assert said["steered"]["probability"] > 10 * said["random"]["probability"]
    drawn = answer_of(address, "steer_image", "white", edits, 3, 5)
    for one in ("original", "steered", "random"):
        content = base64.b64decode(drawn[one]["picture"].split(",")[1])
        assert Image.open(io.BytesIO(content)).format == "WEBP"
    assert drawn["original"]["original"] == pytest.approx(1, abs=1e-5)
    assert answer_of(address, "model_info", "emoji-sae")["neurons"] == 2048


def test_an_assistant_finds_and_calls_the_tools(address):
    async def talk():
        async with streamablehttp_client(f"{address}/gradio_api/mcp/") as (reading, writing, _):
            async with ClientSession(reading, writing) as session:
                await session.initialize()
                names = {tool.name for tool in (await session.list_tools()).tools}
                found = await session.call_tool("find_neurons", {"query": "pizza", "limit": 2})
                edits = [{"neuron": 3, "value": 50.0}]
                drawn = await session.call_tool("steer_image", {"image": "white", "edits": edits, "steps": 5})
                wrong = await session.call_tool("neuron_info", {"neuron": 99999})
                return names, found, drawn, wrong

    with ThreadPoolExecutor() as threads:  # in this one, the browser's driver has its own loop
        names, found, drawn, wrong = threads.submit(anyio.run, talk).result(60)
    assert "steer_image" in names and not found.isError and not drawn.isError
    assert json.loads(found.content[0].text) == answer_of(address, "find_neurons", "pizza", 2)
    told, *pictures = drawn.content
    assert json.loads(told.text)["steered"]["picture"] == "image 2" and len(pictures) == 3
    for picture in pictures:
        assert picture.mimeType == "image/webp"
        assert Image.open(io.BytesIO(base64.b64decode(picture.data))).format == "WEBP"
    assert wrong.isError and "There is no neuron 99999" in wrong.content[0].text
