"""What a visitor does, in a real browser, on the shipped model."""

import re
from pathlib import Path

import pytest
from PIL import Image

from cbsae_hub import Pack

HUB = Path(__file__).parents[2] / "hub"


@pytest.fixture(scope="module")
def pack():
    return Pack.from_pretrained(HUB / "emoji-cbsae")


@pytest.fixture(scope="module")
def strong(pack):
    """A concept that the model has a strong neuron for."""
    return next(row.name for row in pack.neurons if row.name and pack.find(row.name).verdict == "strong")


def search(page, text):
    box = page.locator("#query textarea, #query input").first
    box.fill(text)
    box.press("Enter")


def is_shown(page, selector, pattern):
    page.locator(selector).filter(has_text=re.compile(pattern)).first.wait_for()


def open_inspect(page):
    page.get_by_role("tab", name="Inspect image").click()
    page.locator(".cb-sample").first.wait_for()


def test_a_tab_that_is_opened_before_the_page_has_answered_stays_open(page, address):
    held = []
    page.route("**/queue/join**", lambda route: held.append(route))
    page.goto(address)
    open_inspect(page)
    assert held
    with page.expect_response("**/queue/join**"):
        page.unroute("**/queue/join**")  # what was held goes on
    page.wait_for_timeout(1000)
    assert page.locator(".cb-sample").first.is_visible()


def test_a_concept_is_found_with_its_neurons_and_pictures(page, pack, strong):
    search(page, strong)
    is_shown(page, "#verdict", "strong")
    best = pack.find(strong).matches[0]
    is_shown(page, "#card h3", rf"^{re.escape(strong)} \(\d+\.\d\d\) - #{best.neuron}$")
    labels = page.locator("#results label").all_inner_texts()
    assert len(labels) == len({m.neuron for m in pack.find(strong).matches})
    assert all(re.fullmatch(r".+ \(-?\d+\.\d\d\) - #\d+", label.strip()) for label in labels)
    shown = page.locator("#card figure").count()
    expected = sum(len(pack.examples(best.neuron, strip, 9)) for strip in ("top", "p75", "p50", "p25"))
    assert shown == expected
    assert page.locator("#card svg.cb-heat rect").count() > 0


def test_a_concept_neuron_says_what_it_was_trained_for(page, pack):
    frame = pack.neurons.frame
    own = frame[(frame["kind"] == "cb") & (frame["designated_first"] == True)].iloc[0]  # noqa: E712
    search(page, own["designated"])
    is_shown(page, "#card dl", f"Trained for\\s*{re.escape(own['designated'])}")
    is_shown(page, "#card dl", rf"Steers LLaVA\s*“{re.escape(own['said_white'])}”, {own['steer_text_white']:.2f}")
    is_shown(page, "#card .cb-note", "grades every patch")
    is_shown(page, ".cb-header", "a concept bottleneck adds")


def test_the_verdict_of_nonsense_offers_what_is_near(page):
    search(page, "qqqqqzzz")
    is_shown(page, "#verdict", "not in this model")
    is_shown(page, "#suggestions", "Near in meaning")
    page.locator("#suggestions label").first.click()
    page.locator("#card h3").wait_for()


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


def test_links_lead_to_the_view_and_bad_ones_to_the_start(page, address, pack, strong):
    search(page, strong)
    link = page.locator("#card a.cb-link")
    link.wait_for()
    title = page.locator("#card h3").inner_text()
    page.goto(f"{address}/{link.get_attribute('href')}")
    is_shown(page, "#card h3", re.escape(title))
    page.goto(f"{address}/?tab=<script>&neuron=99999999&q=")
    is_shown(page, "#card", "Type a concept")
    page.goto(f"{address}/?tab=inspect")
    page.locator(".cb-sample").first.wait_for()


def test_a_sample_is_inspected_and_its_patches_answer(page, pack):
    open_inspect(page)
    page.locator(".cb-sample").nth(1).click()
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
    page.locator(".cb-sample").first.click()
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


def test_what_is_no_picture_gets_a_sentence_and_the_page_goes_on(page, tmp_path):
    open_inspect(page)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"rubbish" * 20)
    page.locator("#upload input[type=file]").set_input_files(tmp_path / "broken.png")
    page.locator("[data-testid=toast-body], .toast-body").first.wait_for()
    said = page.locator("[data-testid=toast-body], .toast-body").first.inner_text()
    assert "Traceback" not in said and len(said) > 20
    page.locator(".cb-sample").first.click()
    page.locator(".cb-cell").first.wait_for()


def test_small_screens_need_no_sideways_scrolling(page, strong):
    page.set_viewport_size({"width": 375, "height": 800})
    search(page, strong)
    page.locator("#card h3").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    open_inspect(page)
    page.locator(".cb-sample").first.click()
    page.locator(".cb-cell").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 375


def test_everything_has_a_name(page, strong):
    """Pictures have alternative texts, controls have names, and there is one main heading."""
    search(page, strong)
    page.locator("#card h3").wait_for()
    open_inspect(page)
    page.locator(".cb-sample").first.click()
    page.locator(".cb-cell").first.wait_for()
    assert page.locator("h1").count() == 1
    assert page.evaluate("[...document.images].filter(i => !i.alt).map(i => i.outerHTML.slice(0, 200))") == []
    unnamed = """[...document.querySelectorAll('button')].filter(b => b.offsetParent &&
        !(b.innerText.trim() || b.getAttribute('aria-label') || b.title || b.querySelector('img[alt]')))
        .map(b => b.outerHTML.slice(0, 200))"""
    assert page.evaluate(unnamed) == []
