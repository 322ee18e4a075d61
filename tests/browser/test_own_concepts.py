"""Concepts of one's own: a visitor trains one, uses it, downloads it, reloads; others never see it."""

import re
import zipfile
from pathlib import Path

import pytest
from actions import is_shown, open_tab, said, says, search, wait_for_basket
from known_words import weak_word

from cbsae_hub import CBSAE, Pack

HUB = Path(__file__).parents[2] / "hub"


@pytest.fixture(scope="module")
def pages(long_visit):
    """Two visitors with one word that the model knows, and one that it lacks; the first has trained it."""
    mine = long_visit("?tab=inspect&seen=s1&pic=s1&sort=p99&named=sun")  # a picture, without the new concept
    other = long_visit("?tab=own")
    mine.locator(".cb-cell").first.wait_for()
    open_tab(mine, "Your concepts")
    for page in (mine, other):
        page.locator("#own-words textarea").fill(f"pinata\n{weak_word()}")
        page.locator("#own-check").click()
        is_shown(page, "#own-report tr", r"pinata\s*○ missing")
        is_shown(page, "#own-report tr", rf"{weak_word()}\s*● in the SAE.*◐ weak: on images whose content is known")
    mine.locator("#own-train").click()
    is_shown(mine, "#own-progress", r"step \d+ of 300|looking at the pictures")
    mine.locator("#own-progress").filter(has_text=re.compile("1 concept added")).wait_for(timeout=240_000)
    return mine, other


def test_a_concept_is_trained_used_and_downloaded(pages, tmp_path):
    mine, _ = pages
    is_shown(mine, "#own-progress", "Not surely learned: “pinata”")  # neither teacher nor judge knows the word
    is_shown(mine, "#own-report tr", r"pinata\s*◆ concept neuron.*◐ weak: it was trained for it")
    mine.locator("#own-report tr").filter(has_text="pinata").locator("[data-act=add]").click()
    wait_for_basket(mine, 1)
    open_tab(mine, "Neuron")
    is_shown(mine, "#neuron-bar", f"Neuron, 0 to {len(Pack.from_pretrained(HUB / 'emoji-cbsae').neurons)}")
    open_tab(mine, "Steer LLaVA")
    is_shown(mine, "#answers .cb-probability", "pinata")
    search(mine, "pinata")
    is_shown(mine, "#results", "pinata")
    open_tab(mine, "Your concepts")
    with mine.expect_download() as download:
        mine.locator("#own-download a").click()
    with zipfile.ZipFile(download.value.path()) as file:
        file.extractall(tmp_path)
    assert CBSAE.from_pretrained(tmp_path).concepts[-1] == "pinata"


def test_it_survives_a_reload(pages):
    mine, _ = pages
    search(mine, weak_word())
    mine.locator("#card [data-act=add]").click()  # one that others have, too
    wait_for_basket(mine, 2)
    says(mine, "m", words=f"pinata\n{weak_word()}", q=weak_word(), sort="p99", named="sun")
    assert said(mine)["m"].startswith("emoji-cbsae~")
    open_tab(mine, "Inspect image")  # was inspected without the new concept
    mine.locator("#grid .cb-stale").wait_for()
    mine.locator("#grid [data-run]").click()
    mine.wait_for_function("() => !document.querySelector('#grid .cb-stale')")
    mine.locator("#model input").click()  # focus leaves the model and what was trained alone
    mine.locator("h1").click()
    mine.wait_for_timeout(600)
    mine.reload()
    wait_for_basket(mine, 2)
    open_tab(mine, "Your concepts")
    mine.locator("#own-check").click()
    is_shown(mine, "#own-report tr", r"pinata\s*◆ concept neuron")
    assert mine.locator("#own-download").is_visible()
    says(mine, tab="own")


def test_nobody_else_sees_it(pages, visit, address):
    mine, other = pages
    other.locator("#own-check").click()
    is_shown(other, "#own-report tr", r"pinata\s*○ missing")
    search(other, "pinata")
    assert "pinata (" not in other.locator("#results").inner_text() if other.locator("#results").count() else True
    number = len(Pack.from_pretrained(HUB / "emoji-cbsae").neurons)  # the first one that only the other visitor has
    other.goto(other.url.split("?")[0] + f"?tab=neuron&neuron={number}")
    is_shown(other, "[data-testid=toast-body], .toast-body", "could not be read: neuron")
    stranger = visit(mine.url.removeprefix(f"{address}/"))
    is_shown(stranger, "[data-testid=toast-body], .toast-body", "trained by a visitor")
    wait_for_basket(stranger, 1)
    stranger.locator("#own-check").click()
    is_shown(stranger, "#own-report tr", r"pinata\s*○ missing")


def test_training_is_stopped_by_keyboard_and_what_is_there_by_then_is_kept(visit):
    page = visit("?tab=own")
    page.locator("#own-words textarea").fill("zeppelin")
    page.locator("#own-train").focus()
    page.keyboard.press("Enter")
    is_shown(page, "#own-progress", r"step \d+ of 300")
    page.locator("#own-stop").focus()
    page.keyboard.press("Enter")
    is_shown(page, "#own-progress", "Stopped early")
    is_shown(page, "#own-report tr", r"zeppelin\s*◆ concept neuron")
