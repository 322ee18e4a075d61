"""What a visitor does, in a real browser, on the shipped model."""

import re
from pathlib import Path

import pytest
from actions import is_shown, open_tab, search
from known_words import neuron_of, weak_word
from PIL import Image

from cbsae_hub import Pack
from cbsae_hub.studio.view.html import CARD_STRIPS

HUB = Path(__file__).parents[2] / "hub"


@pytest.fixture(scope="module")
def pack():
    return Pack.from_pretrained(HUB / "emoji-cbsae")


@pytest.fixture(scope="module")
def strong(pack):
    """A concept that the model has a strong neuron for."""
    return next(row.name for row in pack.neurons if row.name and pack.find(row.name).verdict == "strong")


def open_inspect(page):
    open_tab(page, "Inspect image")
    page.locator("#samples .cb-sample").first.wait_for()


def test_a_tab_that_is_opened_before_the_page_has_answered_stays_open(page, address):
    held = []
    page.route("**/queue/join**", lambda route: held.append(route))
    page.goto(address)
    page.get_by_role("tab", name="Inspect image").wait_for()
    assert not held, "without anything in the address, nothing is asked for"
    open_inspect(page)
    page.unroute("**/queue/join**")
    page.wait_for_timeout(1000)
    assert page.locator("#samples .cb-sample").first.is_visible()


def test_a_concept_is_found_with_its_neurons_and_pictures(page, pack, strong):
    search(page, strong)
    is_shown(page, "#verdict", "strong")
    best = pack.find(strong).matches[0]
    is_shown(page, "#card h3", rf"^{re.escape(strong)} \(\d+\.\d\d(, concept neuron)?\) - #{best.neuron}$")
    labels = page.locator("#results label").all_inner_texts()
    assert len(labels) == len({m.neuron for m in pack.find(strong).matches})
    assert all(re.fullmatch(r".+ \(.*-?\d+\.\d\d(, concept neuron)?\) - #\d+", label.strip()) for label in labels)
    shown = page.locator("#card figure").count()
    expected = sum(len(pack.examples(best.neuron, strip, 9)) for strip in CARD_STRIPS)
    assert shown == expected
    assert page.locator("#card svg.cb-heat rect").count() > 0


def test_a_concept_neuron_says_what_it_was_trained_for(page, pack):
    frame = pack.neurons.frame
    own = frame[(frame["kind"] == "cb") & (frame["designated_first"] == True)].iloc[0]  # noqa: E712
    search(page, own["designated"])
    is_shown(page, "#card dl", f"Trained for\\s*{re.escape(own['designated'])}")
    is_shown(page, "#card dl", rf"Steerability\s*{own['steer_text_white']:.2f} \(“{re.escape(own['said_white'])}”\)")
    is_shown(page, "#card .cb-note", "grades every patch")
    is_shown(page, "#card h3", "concept neuron")


def test_the_verdict_of_nonsense_offers_what_can_be_found_and_nothing_is_near_it(page):
    search(page, "qqqqqzzz")
    is_shown(page, "#verdict", "not in this model")
    is_shown(page, "#suggestions", "Or try one of these")
    page.locator("#suggestions label").first.click()
    page.locator("#card h3").wait_for()


def test_a_verdict_says_why(page, pack):
    search(page, weak_word())
    truth = neuron_of(weak_word()).truth
    is_shown(page, "#verdict", f"weak.*on images whose content is known, “{truth}” is what it finds best")


def test_another_neuron_is_picked_by_keyboard(page, pack):
    name = max(
        (row.name for row in pack.neurons if row.name), key=lambda n: len({m.neuron for m in pack.find(n).matches})
    )
    search(page, name)
    page.locator("#card h3").wait_for()
    before = page.locator("#card h3").inner_text()
    page.locator("#results input:checked").focus()
    page.keyboard.press("Tab")  # each of Gradio's radio buttons is a stop of its own
    page.keyboard.press("Space")
    page.wait_for_function("before => document.querySelector('#card h3')?.innerText !== before", arg=before)
    ids = list(dict.fromkeys(m.neuron for m in pack.find(name).matches))
    assert page.locator("#card h3").inner_text().endswith(f"#{ids[1]}")


def test_what_a_link_cannot_mean_is_said_and_the_page_starts(page, address):
    page.goto(f"{address}/?tab=<script>&neuron=99999999&b=1:x")
    is_shown(page, "[data-testid=toast-body], .toast-body", "could not be read: b, neuron, tab")
    page.locator(".cb-example").first.wait_for()


def test_a_sample_is_inspected_and_its_patches_answer(page, pack):
    open_inspect(page)
    page.locator("#samples .cb-sample").nth(1).click()
    page.locator(".cb-cell").first.wait_for()
    assert page.locator(".cb-cell").count() == pack.grid[0] * pack.grid[1]
    is_shown(page, "#error", r"The SAE keeps\s*\d+\.\d%")
    is_shown(page, "#inspect-card h3", "#")
    page.locator(".cb-cell").nth(9).click()
    is_shown(page, "#neurons", "patch row 2, column 2")
    is_shown(page, "#grid figcaption", r"fires: \d+ of 64 patches|Nothing")
    page.get_by_role("button", name="Strongest neurons of the whole picture").click()
    is_shown(page, "#neurons", "Strongest neurons of the whole picture")


def test_patches_by_keyboard(page):
    open_inspect(page)
    page.locator("#samples .cb-sample").first.click()
    page.locator(".cb-cell").first.focus()
    for key in ("ArrowRight", "ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
    assert page.evaluate("document.activeElement.dataset.patch") == "10"
    page.keyboard.press("Enter")
    is_shown(page, "#neurons", "patch row 2, column 3")


def test_an_upload_of_ones_own(page, tmp_path):
    Image.radial_gradient("L").resize((300, 200)).convert("RGB").save(tmp_path / "mine.png")
    open_inspect(page)
    page.locator("#upload input[type=file]").set_input_files(tmp_path / "mine.png")
    page.locator(".cb-cell").first.wait_for()
    is_shown(page, "#error", "Cosine")


def test_the_browsers_title_says_which_tab_is_open(page, address):
    title = "cbsae_hub: what does a vision model know?"
    assert page.title() == title
    open_tab(page, "Map and scores")
    page.wait_for_function("document.title.startsWith('Map and scores - cbsae_hub')")
    open_tab(page, "Start")
    page.wait_for_function("title => document.title === title", arg=title)
    page.goto(f"{address}/?tab=llava")
    page.wait_for_function("document.title.startsWith('Steer LLaVA - cbsae_hub')")


@pytest.mark.parametrize(("tab", "box"), [("Inspect image", "#upload"), ("Steer LLaVA", "#llava-upload")])
def test_a_refused_upload_leaves_an_empty_box(page, tmp_path, tab, box):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"rubbish" * 20)
    Image.new("RGB", (300, 200), "red").save(tmp_path / "mine.png")
    open_tab(page, tab)
    if tab != "Inspect image":
        page.get_by_role("button", name="Or your own").first.click()
    page.locator(f"{box} input[type=file]").set_input_files(tmp_path / "broken.png")
    page.locator("[data-testid=toast-body], .toast-body").first.wait_for()
    page.locator(f"{box} input[type=file]").wait_for(state="attached")
    assert page.locator(f"{box} img").count() == 0
    page.locator(f"{box} input[type=file]").set_input_files(tmp_path / "mine.png")
    page.locator(f"{box} img").wait_for()


def test_nothing_of_the_picture_before_stays_after_a_refused_upload(page, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"rubbish" * 20)
    open_inspect(page)
    page.locator("#samples .cb-sample").first.click()
    page.locator(".cb-cell").first.wait_for()
    is_shown(page, "#inspect-card h3", "#")
    page.locator("#upload input[type=file]").set_input_files(tmp_path / "broken.png")
    is_shown(page, "#grid", "could not be opened")
    page.locator("#inspect-card h3").wait_for(state="detached")
    assert not page.locator(".cb-cell, #neurons label").count() and not page.locator("#error").inner_text().strip()
    page.wait_for_function("() => !new URLSearchParams(location.search).has('seen')")
    page.go_back()
    page.locator(".cb-cell").first.wait_for()
    page.locator("#upload input[type=file]").set_input_files(tmp_path / "broken.png")
    is_shown(page, "#grid", "could not be opened")
    page.locator("#samples .cb-sample").nth(1).click()
    page.locator(".cb-cell").first.wait_for()


@pytest.mark.parametrize("tab", ["llava", "draw"])
def test_a_steering_tab_says_which_picture_stays_after_a_refused_upload(visit, tmp_path, tab):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"rubbish" * 20)
    page = visit(f"?tab={tab}&pic=s1")
    picture = page.locator(f"#{tab}-preview img")
    picture.wait_for()
    page.wait_for_function("() => window.cbPage && !window.cbPage.busy && window.cbPage.state.pic === 's1'")
    before = picture.get_attribute("src")
    page.locator(f"#{tab}-preview ~ * button, button:visible").filter(has_text="Or your own").first.click()
    page.locator(f"#{tab}-upload input[type=file]").set_input_files(tmp_path / "broken.png")
    is_shown(page, f"#{tab}-preview", "still the picture that is steered")
    assert picture.get_attribute("src") == before and "pic=s1" in page.url
    page.locator(f"#{tab}-samples .cb-sample").nth(2).click()
    page.locator(f"#{tab}-preview .cb-note").wait_for(state="detached")


def test_what_is_no_picture_gets_a_sentence_and_the_page_goes_on(page, tmp_path):
    open_inspect(page)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"rubbish" * 20)
    page.locator("#upload input[type=file]").set_input_files(tmp_path / "broken.png")
    page.locator("[data-testid=toast-body], .toast-body").first.wait_for()
    said = page.locator("[data-testid=toast-body], .toast-body").first.inner_text()
    assert "Traceback" not in said and len(said) > 20
    page.locator("#samples .cb-sample").first.click()
    page.locator(".cb-cell").first.wait_for()
