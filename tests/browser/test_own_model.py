"""The page of somebody's own encoder, which is not square and which no LLaVA and no unCLIP reads."""

import io
import json
import re
import shutil
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from actions import is_shown
from gradio_client import Client
from own_model import OwnPictures, make_own_model
from PIL import Image

from cbsae_hub import Pack
from cbsae_hub.neurons.chance import MARK, MEANING, SURE

VIEWPORTS = {"desk": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_own_model(tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="module")
def pack(folder):
    return Pack.from_pretrained(folder)


@pytest.fixture(scope="module")
def own_visit(visit_of, folder):
    return visit_of("--model", str(folder))


@pytest.fixture(params=VIEWPORTS)
def arrive(request, own_visit):
    """Opens the page at a query, wide or narrow: there, most tabs are behind a button."""
    return lambda query="": own_visit(query, viewport=VIEWPORTS[request.param])


@pytest.fixture(scope="module")
def lucky(pack):
    """The best of the names that are no better than chance: a search shows it."""
    frame = pack.neurons.sort("score").frame
    return pack.neurons[int(frame[frame["name"].notna() & (frame["null_percentile"] < SURE)].iloc[0]["neuron"])]


def test_start_leads_to_a_neuron_whose_name_is_sure(arrive, pack):
    own_page = arrive()
    cards = own_page.locator(".cb-example")
    cards.first.wait_for()
    assert cards.count() >= 3 and MARK not in own_page.locator("#examples").inner_text()
    number = int(re.search(r"#(\d+)", cards.first.locator("h3").inner_text())[1])
    cards.first.get_by_role("button", name="Try it").click()
    is_shown(own_page, "#neuron-page h3", f"#{number}$")
    assert pack.neurons[number].status == "alive" and pack.neurons[number].null_percentile >= SURE
    is_shown(own_page, "#neuron-live", "started without LLaVA")


@pytest.mark.parametrize(
    ("tab", "place", "which"), [("llava", "#llava-notice", "LLaVA"), ("draw", "#draw-notice", "unCLIP")]
)
def test_a_steering_tab_says_when_it_is_opened_that_nothing_reads_the_encoder(own_visit, tab, place, which):
    page = own_visit(f"?tab={tab}")
    is_shown(page, place, f"No {which} is known that does")
    text = page.locator(place).inner_text()
    assert "llava-hf" not in text and "app.py" not in text
    assert not page.locator(".cb-empty").locator("visible=true").count(), "and does not tell what to do with it"


def test_the_mark_has_a_tooltip_wherever_there_is_room(arrive, lucky):
    own_page = arrive(f"?tab=find&q={lucky.name}")
    is_shown(own_page, "#results", re.escape(MEANING))
    own_page.locator("#results label", has_text=re.compile(rf"{re.escape(MARK)}\) - #{lucky.neuron}$")).click()
    is_shown(own_page, "#card h3", rf"{re.escape(MARK)}\) - #{lucky.neuron}$")
    own_page.locator("#card [data-act=add]").first.click()
    own_page.locator("#dock[data-count='1'], #dock [data-count='1']").first.wait_for(state="attached")
    for place in ("#card h3", "#dock"):
        mark = own_page.locator(f"{place} abbr.cb-chance").first
        assert (mark.get_attribute("title"), mark.text_content()) == (MEANING, MARK)
    assert own_page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_cells_are_square_and_lie_over_the_thing_of_an_upload(arrive, pack):
    own_page = arrive("?tab=inspect")
    picture = next(image for image in OwnPictures().images if image.width > 1.5 * image.height)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    upload = {"name": "wide.png", "mimeType": "image/png", "buffer": buffer.getvalue()}
    own_page.locator("#upload input[type=file]").set_input_files(upload)
    own_page.locator(".cb-cell").first.wait_for()
    assert own_page.locator(".cb-cell").count() == 12 * 8 and pack.grid == (12, 8)
    cell = own_page.locator(".cb-cell").first.bounding_box()
    assert cell["width"] == pytest.approx(cell["height"], rel=0.02)
    own_page.evaluate("document.querySelectorAll('.cb-cell').forEach(cell => cell.style.background = 'none')")
    shown = Image.open(io.BytesIO(own_page.locator(".cb-grid").screenshot())).convert("RGB")
    squashed = np.asarray(picture.resize(shown.size), int)
    inner = np.s_[20:-20, 20:-20]
    assert np.abs(np.asarray(shown, int) - squashed)[inner].mean() < 25, "all of the picture, as the encoder sees it"


def test_strips_have_the_shape_of_the_grid(arrive):
    own_page = arrive("?tab=neuron")
    frame = own_page.locator("#neuron-page .cb-frame").first
    frame.wait_for()
    box = frame.bounding_box()
    assert box["width"] / box["height"] == pytest.approx(8 / 12, rel=0.02)
    ratio = own_page.locator("#neuron-page .cb-frame img").first.evaluate(
        "image => image.naturalWidth / image.naturalHeight"
    )
    assert ratio == pytest.approx(8 / 12, abs=0.02)


def test_another_model_has_its_own_notice(visit_of, folder):
    hub = Path(__file__).parents[2] / "hub"
    arrive = visit_of("--model", str(folder), "--model", str(hub / "emoji-sae"), "--llava", str(hub / "emoji-llava"))
    page = arrive("?tab=llava")
    is_shown(page, "#llava-notice", "emoji-llava does not read the encoder me/encoder")
    page.evaluate("window.cbPage.go({ m: 'emoji-sae' })")
    page.locator("#llava-notice .cb-note").wait_for(state="detached")
    page.evaluate("window.cbPage.go({ m: 'sae' })")
    is_shown(page, "#llava-notice", "does not read")


def test_the_button_of_the_table_is_whole_on_every_phone(own_visit):
    page = own_visit("?tab=scores")
    button = page.locator("#csv a")
    button.wait_for()
    for width in (320, 360, 375, 390, 400, 412, 430, 480, 540, 600, 768):
        page.set_viewport_size({"width": width, "height": 800})
        page.wait_for_timeout(200)
        box = button.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width and box["height"] < 40, f"{width} pixels: {box}"


@pytest.fixture(scope="module")
def explanations(tmp_path_factory, folder):
    """What two `cbsae explain` have left, as far as a page needs it; the names of the second are worth nothing."""
    root = tmp_path_factory.mktemp("explanations")
    for name, score in (("dogs", 0.0), ("cats", 1000.0)):
        shutil.copytree(folder.parent, root / name)
        (root / name / "explain.json").write_text("{}")
        (root / name / "nonsense.json").write_text(json.dumps({"score": score}))
    return [root / "dogs", root / "cats"]


def test_two_explanations_are_served_by_one_page(visit_of, explanations):
    arrive = visit_of(*(part for folder in explanations for part in ("--model", str(folder))))
    page = arrive("?b=12:1.000")
    assert page.locator("#model input").input_value() == "dogs/sae"
    is_shown(page, "#examples", "stands for “")
    page.locator("#model input").click()
    page.get_by_role("option", name="cats/sae").click()
    is_shown(page, "#examples .cb-note", "trust the pictures, not the names")
    assert parse_qs(urlsplit(page.url).query)["m"] == ["cats/sae"]
    page.goto(f"{page.url}&tab=use")
    is_shown(page, "#use-python", "path/to/cats/sae")
    is_shown(page, "#use-introduction", "Put the path of the folder cats/sae")
    is_shown(page, "#use-client", 'model="cats/sae"')
    assert "llava" not in page.locator("#use-python").inner_text().lower()
    page.evaluate("window.cbPage.go({ m: 'dogs/sae' })")
    page.locator("#dock [data-count='1']").first.wait_for(state="attached")
    address = page.url.split("?")[0]
    answer = Client(address, verbose=False).predict("white", 3, model="cats/sae", api_name="/encode_image")
    assert len(answer["neurons"]) == 3
