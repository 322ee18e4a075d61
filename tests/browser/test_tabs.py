"""The main path of every other tab, by mouse and by keyboard, on the shipped models."""

import json
import re
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from actions import basket_of, is_shown, open_tab, search, settled, wait_for_basket
from known_words import SAE_NAME, neuron_of, strong_word

from cbsae_hub import Pack

HUB = Path(__file__).parents[2] / "hub"
STEERED = "#answers .cb-main p"


@pytest.fixture(scope="module")
def pack():
    return Pack.from_pretrained(HUB / "emoji-cbsae")


@pytest.fixture(scope="module")
def speaking(pack):
    """The SAE neuron that makes LLaVA say its name, and is named best."""
    frame = pack.neurons.frame
    found = frame[(frame["said_white"] == frame["name"]) & (frame["kind"] == "sae")]
    return found.sort_values("score", ascending=False).iloc[0]


# --------------------------------------------------------------------------------------------------------- start


def test_an_example_sets_everything_up_runs_and_gives_what_its_card_says(page):
    card = page.locator(".cb-example").first.inner_text()
    promised = r"LLaVA says “(.+?)”; pushed as far in a random direction, (?:“(.+?)”|nothing)"
    said, control = re.search(promised, card).groups()
    page.locator(".cb-example button").first.click()
    is_shown(page, STEERED, f"^{re.escape(said)}$")
    assert page.get_by_role("tab", name="Steer LLaVA").get_attribute("aria-selected") == "true"
    assert basket_of(page)[0][1] == "= 50.0"
    assert page.locator("#answers .cb-answer p").nth(3).inner_text() == (control or "(nothing)")


def test_every_example_leads_somewhere_by_keyboard(page):
    buttons = page.locator(".cb-example button")
    for place in range(buttons.count()):
        open_tab(page, "Start")
        buttons.nth(place).focus()
        page.keyboard.press("Enter")
        page.locator('[role=tab][aria-selected=true]:not(:text-is("Start"))').wait_for()


# -------------------------------------------------------------------------------------------------------- neuron


def test_a_neuron_page_tells_what_the_pack_knows(visit, pack, speaking):
    number = int(speaking["neuron"])
    page = visit(f"?tab=neuron&neuron={number}")
    is_shown(page, "#neuron-page h3", re.escape(f"#{number}"))
    strips = page.locator("#neuron-page .cb-strip")
    expected = [len(pack.examples(number, strip, 9)) for strip in ("top", "p75", "p50", "p25", "random")]
    assert [strips.nth(i).locator("figure").count() for i in range(strips.count())] == [n for n in expected if n]
    assert page.locator("#neuron-page .cb-histogram rect").count() == len(speaking["histogram"])
    is_shown(page, "#neuron-page .cb-p99", re.escape(f"p99 {speaking['p99']:.3g}"))
    is_shown(page, "#neuron-live", f"“{re.escape(speaking['said_unit'])}”")
    assert page.locator("#neuron-live img").get_attribute("alt").startswith("what unCLIP draws")
    page.locator("#neuron-page .cb-pills button").first.click()
    page.wait_for_function("n => !document.querySelector('#neuron-page h3').innerText.endsWith('#' + n)", arg=number)


def test_neurons_one_after_the_other_by_keyboard(visit, pack):
    page = visit("?tab=neuron&neuron=0")
    is_shown(page, "#neuron-page h3", "#0$")
    page.locator("#neuron-previous").focus()
    page.keyboard.press("Enter")
    is_shown(page, "#neuron-page h3", f"#{len(pack.neurons) - 1}$")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    is_shown(page, "#neuron-page h3", "#0$")
    box = page.locator("#neuron-number input")
    box.fill("12")
    box.press("Enter")
    is_shown(page, "#neuron-page h3", "#12$")
    page.locator("#neuron-random").click()
    page.wait_for_function("() => !document.querySelector('#neuron-page h3').innerText.endsWith('#12')")


def test_pruned_neurons_say_so(visit):
    kept = set(json.loads((HUB / "emoji-cbsae" / "config.json").read_text())["sae_neuron_ids"])
    pruned = next(neuron for neuron in range(2048) if neuron not in kept)
    page = visit(f"?m=emoji-sae&tab=neuron&neuron={pruned}")
    is_shown(page, "#neuron-page .cb-note", "was pruned: emoji-cbsae does not have it")


# -------------------------------------------------------------------------------------------------------- basket


def test_the_basket_by_mouse(page, pack, speaking):
    search(page, speaking["name"])
    page.locator("#card [data-act=add]").click()
    wait_for_basket(page, 1)
    row = page.locator("#dock .cb-row").first
    box = row.locator("[type=range]").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.5, box["y"] + box["height"] / 2)
    is_shown(page, "#dock .cb-other", r"= 2[45]\.\d")  # the middle between -50 and 100
    row.locator("[data-act=mute]").click()
    page.locator("#dock .cb-row.cb-muted").wait_for()
    page.locator("#dock [data-act=unit]").click()
    is_shown(page, "#dock .cb-other", r"= \d\.\d × p99")
    page.locator("#card [data-act=add]").click()
    is_shown(page, "[data-testid=toast-body], .toast-body", "in the basket already")
    row.locator("[data-act=remove]").click()
    wait_for_basket(page, 0)


def test_the_basket_by_keyboard(visit):
    page = visit("?tab=llava&b=275:50.000")
    wait_for_basket(page, 1)
    slider = page.locator("#dock [type=range]")
    slider.focus()
    before = float(slider.input_value())
    page.keyboard.press("ArrowRight")
    assert float(slider.input_value()) > before
    page.wait_for_function("() => document.activeElement.type === 'range'")
    number = page.locator("#dock [type=number]")
    number.fill("2")
    number.press("Enter")
    is_shown(page, "#dock .cb-chips", r"2\.0 × p99")
    assert page.evaluate("document.activeElement.type") == "number", "who types is not thrown out"
    low, high = number.get_attribute("min"), number.get_attribute("max")
    assert float(high) < 50 < 100, "multiples of p99, not units of latents"
    for wrong in ("999", ""):
        number.fill(wrong)
        number.press("Enter")
        said = rf"can be set to values from {re.escape(low)} to {re.escape(high)} × p99, not to {wrong or 'this'}\."
        is_shown(page, "#dock .cb-dock-said", said)
        assert number.input_value() == "2.0" and float(slider.input_value()) == 2, "a refused strength does not stay"


def test_quick_changes_of_the_basket_are_all_made(visit):
    page = visit("?tab=find&b=10:50.000,11:50.000,12:50.000")
    wait_for_basket(page, 3)
    page.evaluate("""() => {
      const rows = document.querySelectorAll('#dock .cb-row');
      document.querySelector('#dock [data-act=unit]').click();
      rows[1].querySelector('[data-act=mute]').click();
      rows[0].querySelector('[data-act=remove]').click(); }""")
    wait_for_basket(page, 2)
    page.locator("#dock .cb-row.cb-muted").wait_for()
    is_shown(page, "#dock .cb-other", r"× p99")
    assert [title.split("#")[1] for title, _ in basket_of(page)] == ["11", "12"]


def test_five_neurons_fit(visit):
    page = visit("?tab=find&q=pizza&b=" + ",".join(f"{i}:50" for i in range(10, 15)))
    wait_for_basket(page, 5)
    page.locator("#card [data-act=add]").click()
    is_shown(page, "[data-testid=toast-body], .toast-body", "holds 5 neurons")
    page.mouse.wheel(0, 100_000)
    page.wait_for_function("() => scrollY + innerHeight >= document.documentElement.scrollHeight - 1")
    last, dock = page.locator("#card .cb-figure").last.bounding_box(), page.locator("#dock").bounding_box()
    assert last["y"] + last["height"] <= dock["y"], "the basket hides nothing of the page"


# --------------------------------------------------------------------------------------------------------- llava


def test_llava_is_steered_with_its_controls(visit, speaking):
    page = visit(f"?tab=llava&b={speaking['neuron']}:50.000&pic=white")
    is_shown(page, STEERED, f"^{re.escape(speaking['name'])}$")
    titles = page.locator("#answers h3").all_inner_texts()
    assert titles == ["Original", "SAE at strength 0", "Steered", "Random control"]
    assert page.locator("#answers .cb-main ins").inner_text() == speaking["name"]
    probabilities = [float(text.split()[-1].rstrip("%")) for text in
                     page.locator("#answers .cb-probability").all_inner_texts()]  # fmt: skip
    assert probabilities[2] > 10 * max(probabilities[0], probabilities[1])
    page.locator("#sweep").click()
    is_shown(page, "#swept", "150% of the basket")
    assert page.locator("#swept tbody tr").count() == 7 and page.locator("#swept svg circle").count() == 14


def test_another_picture_and_question_by_keyboard(visit):
    page = visit("?tab=llava&b=275:50.000")
    page.locator("#answers .cb-main").wait_for()
    page.locator("#llava-live input").uncheck()
    page.locator("#llava-samples .cb-sample").nth(2).focus()
    page.keyboard.press("Enter")
    page.locator('#llava-preview figcaption:not(:text-is("a white picture"))').wait_for()
    box = page.locator("#question textarea")
    box.fill("Describe the image.")
    page.locator("#ask").focus()
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelector('#answers .cb-answer p')?.innerText.split(' ').length > 3")


def test_an_upload_is_steered(visit, tmp_path, pack):
    pack.image(pack.image_ids()[40]).resize((300, 300)).save(tmp_path / "mine.png")
    page = visit("?tab=llava&b=275:20.000")
    page.locator("#answers .cb-main").wait_for()
    page.get_by_role("button", name="Or your own").first.click()
    page.locator("#llava-upload input[type=file]").set_input_files(tmp_path / "mine.png")
    is_shown(page, "#llava-preview figcaption", "your picture")
    open_tab(page, "Steer image")
    is_shown(page, "#draw-preview figcaption", "your picture")
    open_tab(page, "Steer LLaVA")
    page.wait_for_function("() => document.querySelector('#answers .cb-answer p')?.innerText !== 'nothing'")


# ------------------------------------------------------------------------------------------------------ pictures


def test_drawings_seeds_down_strengths_across(visit, pack):
    page = visit("?tab=draw&b=178:50.000&seeds=2&seed=3&steps=5")
    page.locator("#drawings img").nth(9).wait_for()
    assert page.locator("#drawings thead th").all_inner_texts() == [
        "Unsteered", "50%", "100%", "150%", "Random control",
    ]  # fmt: skip
    assert page.locator("#drawings tbody th").all_inner_texts() == ["seed 3", "seed 4"]
    likeness = page.locator("#drawings .cb-likeness").first.inner_text()
    assert pack.neurons[178].name in likeness and "original 1.00" in likeness
    with page.expect_download() as download:
        page.get_by_role("link", name="Download the drawings").click()
    assert Path(download.value.path()).read_bytes()[8:12] == b"WEBP"
    page.locator("#draw").focus()
    page.keyboard.press("Enter")
    page.locator("#drawings img").nth(9).wait_for()


def test_stop_stops(visit):
    page = visit("?tab=draw&seeds=4&steps=30")
    page.locator("#draw").click()
    page.locator("#drawings .cb-pending").first.wait_for()
    page.locator("#draw-stop").click()
    is_shown(page, "#drawings", "Stopped")
    page.wait_for_timeout(1500)
    assert page.locator("#drawings").inner_text().strip() == "Stopped."


# ---------------------------------------------------------------------------------------------------------- clip


def test_bars_move_while_the_slider_does(visit):
    page = visit("?tab=clip&b=275:50.000&pic=s17")
    bars = "#clip-bars .cb-moves span"
    page.locator(bars).first.wait_for()
    start = page.locator(bars).all_inner_texts()
    box = page.locator("#clip-strength input[type=range]").bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * 2 / 3, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 3, middle, steps=4)
    texts = "[...document.querySelectorAll(bars)].map((bar) => bar.innerText)"
    # The button of the mouse is still down.
    page.wait_for_function(f"([bars, start]) => {texts}.join() !== start.join()", arg=[bars, start])
    page.mouse.up()
    page.locator("#clip-decide").click()
    page.locator("#clip-decision li svg").first.wait_for()
    right = page.evaluate("Math.max(...[...document.querySelectorAll('#tabs [role=tab]')].map((tab) => "
                          "tab.getBoundingClientRect().right))")  # fmt: skip
    assert right <= 1280, "all tabs fit"


# -------------------------------------------------------------------------------------------------------- scores


def test_a_dot_opens_its_neuron(visit):
    page = visit("?tab=scores")
    page.wait_for_function("() => document.querySelectorAll('.cb-map')[1]?.points?.length > 1000")
    maps = page.locator(".cb-map")
    assert maps.count() == 2
    for place, model in ((1, "emoji-cbsae"), (0, "emoji-sae")):
        point = page.evaluate("(i) => { const p = document.querySelectorAll('.cb-map')[i].points[7]; "
                              "return [p.x, p.y] }", place)  # fmt: skip
        maps.nth(place).locator("canvas").click(position={"x": point[0], "y": point[1]})
        page.locator('[role=tab][aria-selected=true]:text-is("Neuron")').wait_for()
        is_shown(page, "#neuron-page h3", r"#\d+$")
        assert page.locator("#model input").input_value() == model
        open_tab(page, "Map and scores")
    is_shown(page, "#evaluation, #maps", "interpretability|Quadrant")


def test_the_table_is_filtered_and_downloaded(visit, pack):
    word = strong_word()
    page = visit("?tab=scores")
    page.locator("#rows-words input, #rows-words textarea").first.fill(word)
    page.keyboard.press("Enter")
    expected = int(pack.neurons.frame["name"].str.contains(word).sum())
    is_shown(page, "#rows .cb-hint", f"^{expected} neurons")
    assert all(word in text for text in page.locator("#rows tbody th").all_inner_texts())
    with page.expect_download() as download:
        page.locator("#csv a").click()
    lines = Path(download.value.path()).read_text().splitlines()
    assert len(lines) == len(pack.neurons) + 1 and lines[0].startswith("neuron,kind,name,score")
    is_shown(page, "#evaluation", "SAE against CB-SAE")
    page.locator("#rows tbody button").first.focus()
    page.keyboard.press("Enter")
    is_shown(page, "#neuron-page h3", word)


def test_neurons_are_collected_noted_shared_and_read_from_a_file(visit, tmp_path):
    page = visit("?tab=neuron&neuron=12")
    page.locator("#neuron-page [data-act=collect]").click()
    is_shown(page, ".cb-dock-said", "Neuron 12 is in your collection")
    open_tab(page, "Map and scores")
    is_shown(page, "#collection li", "#12$")
    lines = page.locator("#collection-text textarea")
    lines.fill("12: a <b>note\n300")
    is_shown(page, "#collection li", "#12 a <b>note$")
    assert page.locator("#collection li img").count() == 2
    page.wait_for_function("() => new URLSearchParams(location.search).get('list')?.includes('note')")
    page.reload()
    is_shown(page, "#collection li", "#12 a <b>note$")
    with page.expect_download() as download:
        page.locator("#collection a[download]").click()
    file = tmp_path / "collection.json"
    download.value.save_as(file)
    assert [entry["neuron"] for entry in json.loads(file.read_text())["neurons"]] == [12, 300]
    lines.fill("")
    is_shown(page, "#collection", "Collect neurons with")
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Open a JSON file").click()
    chooser.value.set_files(file)
    is_shown(page, "#collection li", "#12 a <b>note$")
    assert lines.input_value() == "12: a <b>note\n300"


# -------------------------------------------------------------------------------------------------------- use it


def test_code_follows_the_basket(visit):
    neuron = neuron_of(strong_word()).neuron
    page = visit(f"?tab=find&q=pizza&b={neuron}:40.000")
    wait_for_basket(page, 1)
    open_tab(page, "Use it")
    is_shown(page, "#use-python", rf"Edit\({neuron}, 40.00\)")
    is_shown(page, "#use-shell", rf"cbsae steer .*--edit {neuron}=40.00 --llava")
    is_shown(page, "#use-curl", "steer_caption")
    with page.expect_download() as download:
        page.locator("#use-recipe a").click()
    recipe = json.loads(Path(download.value.path()).read_text())
    assert recipe["edits"] == [{"neuron": neuron, "name": strong_word(), "value": 40.0, "muted": False}]
    assert recipe["model"] == "emoji-cbsae" and recipe["generators"]["llava"] == "emoji-llava"
    assert str(HUB) not in page.content(), "folders of this machine are nobody's business"
    page.goto(page.url.split("?")[0] + "?tab=use&b=12:20.000")
    is_shown(page, "#use-python", r"Edit\(12, 20.00\)")


# ------------------------------------------------------------------------------------- models, links, and visitors


def test_another_model_is_picked(page):
    page.locator("#model input").click()
    page.get_by_role("option", name="emoji-sae").click()
    is_shown(page, "#about", "2,048")
    search(page, strong_word(SAE_NAME))
    is_shown(page, "#verdict", "strong")
    open_tab(page, "Your concepts")
    page.locator("#own-words textarea").fill("zeppelin")
    page.locator("#own-train").click()
    is_shown(page, "#own-progress", "no concept bottleneck")


@pytest.mark.parametrize(
    "query",
    [
        "tab=find&q=pizza&b=275%3A50.000%2C12%3A-10.000%21",
        "tab=neuron&neuron=12",
        "tab=inspect&pic=s1&seen=s1&patch=9",
        "m=emoji-sae&tab=llava&b=12%3A25.000&unit=absolute&ask=Describe+the+image.&alone=1&op=add",
        "tab=draw&b=178%3A50.000&word=brick+wall&alone=1&op=add&keep=1&seeds=1&seed=5&steps=5&draw.op=set",
    ],
)
def test_a_link_restores_what_was_copied(visit, query):
    page = visit(f"?{query}")
    settled(page)
    page.locator("#dock [data-link]").click()
    is_shown(page, "#dock .cb-dock-said", "Link copied|address bar")
    copied = page.url.split("?")[1]
    assert parse_qs(query).items() <= parse_qs(copied).items(), "what the page chose by itself is said, too"
    again = visit(f"?{copied}")
    settled(again)
    assert again.url.split("?")[1] == copied


def test_two_visitors_do_not_share_anything(visit, tmp_path, pack):
    pack.image(pack.image_ids()[40]).resize((200, 200)).save(tmp_path / "mine.png")
    first, second = visit("?tab=llava&b=275:50.000"), visit("?tab=llava&b=12:30.000")
    wait_for_basket(first, 1)
    wait_for_basket(second, 1)
    first.get_by_role("button", name="Or your own").first.click()
    first.locator("#llava-upload input[type=file]").set_input_files(tmp_path / "mine.png")
    is_shown(first, "#llava-preview figcaption", "your picture")
    assert "white" in second.locator("#llava-preview figcaption").inner_text()
    first.locator("#dock [data-act=clear]").click()
    wait_for_basket(first, 0)
    second.locator("#dock [data-act=unit]").click()
    is_shown(second, "#dock .cb-other", r"× p99")
    assert basket_of(second)[0][0].endswith("#12")


# ------------------------------------------------------------------------------------------------- looks


def test_tables_of_answers_and_concepts_fit_a_desk(visit):
    page = visit("?tab=llava&b=275:50.000,178:20.000&ask=Describe+the+image.&pic=s17&words=pizza")
    wait_for_basket(page, 2)
    page.locator("#sweep").click()
    page.locator("#swept tbody").wait_for()
    assert page.locator("#swept .cb-scroll").evaluate("(box) => box.scrollWidth <= box.clientWidth")
    open_tab(page, "Your concepts")
    page.locator("#own-check").click()
    is_shown(page, "#own-report tr", "pizza")
    assert page.locator("#own-report .cb-scroll").evaluate("(box) => box.scrollWidth <= box.clientWidth")
    open_tab(page, "Use it")
    is_shown(page, "#use-endpoints td", "Finds")
    assert page.locator("#use-endpoints .cb-scroll").evaluate("(box) => box.scrollWidth <= box.clientWidth")


def test_on_a_phone_the_closed_basket_says_how_much_is_in_it(visit):
    page = visit("?b=275:50.000,178:20.000", viewport={"width": 375, "height": 800})
    wait_for_basket(page, 2)
    is_shown(page, "#dock .cb-count", "2 of 5")
    cut = (
        "(chips) => chips.checkVisibility() && [...chips.children].some((chip) => chip.scrollWidth > chip.clientWidth)"
    )
    assert not page.locator("#dock .cb-chips").evaluate(cut)


def test_there_is_room_above_the_button_of_an_example(page):
    gaps = page.evaluate("""() => [...document.querySelectorAll('.cb-example')].map((card) =>
      card.querySelector('button').getBoundingClientRect().top
      - card.querySelector('dd:last-child').getBoundingClientRect().bottom)""")
    assert gaps and min(gaps) >= 6
