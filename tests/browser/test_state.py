"""Nothing is lost: not by a focus, not by other visitors, not by what only shows something, not by a restart."""

import re

import numpy as np
import pytest
from actions import basket_of, is_shown, open_tab, said, says, search, settled, wait_for_basket
from http_client import post
from known_words import strong_word, strong_words
from PIL import Image

LLAVA = "?tab=llava&b=275:50.000,178:20.000&ask=Describe+the+image.&pic=s17"


def everything(page):
    """What a visitor has made and chosen, as the page shows it in its tabs."""
    return page.evaluate("""() => ({
      basket: [...document.querySelectorAll('#dock .cb-row')].map((row) => row.innerText + row.className),
      question: document.querySelector('#question textarea')?.value,
      picture: document.querySelector('#llava-preview figcaption')?.innerText,
      answers: document.querySelector('#answers')?.innerText.replace(/^[0-9.]+s\\n|[0-9.]+ s\\.$/g, ''),
      stale: document.querySelectorAll('.cb-stale').length,
      model: document.querySelector('#model input').value,
      tab: document.querySelector('[role=tab][aria-selected=true]').innerText,
      search: location.search })""")


def picture_of(folder, seed):
    path = folder / f"{seed}.png"
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (90, 120, 3), np.uint8)).save(path)
    return path


# ------------------------------------------------------------------------------------------------- focus (point 1)


def test_walking_through_the_page_by_tab_changes_nothing(visit):
    page = visit(LLAVA)
    wait_for_basket(page, 2)
    page.locator("#answers .cb-main").wait_for()
    page.wait_for_timeout(500)
    before = everything(page)
    length = page.evaluate("history.length")
    for _ in range(60):
        page.keyboard.press("Tab")
    page.wait_for_timeout(800)
    assert everything(page) == before
    assert page.evaluate("history.length") == length


@pytest.mark.parametrize(
    ("query", "field"),
    [(LLAVA, "#model input"), (LLAVA + "+Or+not%3F", "#presets input"), ("?tab=scores&sort=p99", "#rows-sort input"),
     ("?tab=scores&named=moose", "#rows-words :is(input, textarea)"), ("?tab=neuron&neuron=12", "#neuron-number input"),
     ("?tab=find&q=pizza", "#query :is(input, textarea)"), ("?tab=own&words=zeppelin", "#own-words textarea")],
)  # fmt: skip
def test_a_field_that_is_entered_and_left_changes_nothing(visit, query, field):
    page = visit(query)
    page.locator(field).wait_for()
    if query.startswith(LLAVA):
        page.locator("#answers .cb-main").wait_for()  # the page asks a moment after it is there
    settled(page)
    before, shown = everything(page), page.locator("#tabs").inner_text()
    page.locator(field).click()
    page.wait_for_timeout(200)
    page.locator("h1").click()
    page.wait_for_timeout(600)
    assert everything(page) == before
    assert page.locator("#tabs").inner_text() == shown


def test_only_a_choice_changes_what_a_list_stands_for(visit):
    page = visit("?tab=llava&ask=My+own+question%3F")
    page.locator("#presets input").click()
    page.get_by_role("option", name="Describe the image.").click()
    says(page, ask="Describe the image.")
    page.locator("#question textarea").fill("And mine?")
    says(page, ask="And mine?")
    page.locator("#presets input").click()  # the same again, now that the question is another
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelector('#question textarea').value !== 'And mine?'")


def test_no_list_of_the_page_listens_to_the_focus():
    """Gradio's Dropdown says `input` whenever it loses the focus; `blur` is a change of the focus by name."""
    from pathlib import Path

    import gradio as gr

    from cbsae_hub.studio import build

    demo = build(Path(__file__).parents[2] / "hub" / "emoji-cbsae")
    lists = {key for key, block in demo.blocks.items() if isinstance(block, gr.Dropdown)}
    heard = [(key, event) for fn in demo.fns.values() for key, event in fn.targets]
    assert lists and not [event for key, event in heard if event in ("blur", "focus")]
    assert not [event for key, event in heard if key in lists and event in ("input", "select")]
    assert not [block for block in demo.blocks.values() if isinstance(block, gr.State)], "state is the visitor's"


# ------------------------------------------------------------------------------------- other visitors (point 2)


def test_hundreds_of_calls_by_others_take_nothing_from_a_visitor(visit, address):
    page = visit(LLAVA.replace("llava", "find") + f"&q={strong_word()}")
    wait_for_basket(page, 2)
    is_shown(page, "#card h3", strong_word())
    for neuron in range(330):
        post(address, "neuron_info", [neuron])
    page.locator("#dock [data-act=mute]").first.click()
    page.locator("#dock .cb-row.cb-muted").wait_for()
    assert [title.split("#")[1] for title, _ in basket_of(page)] == ["275", "178"]
    page.locator("#results label").nth(1).click()  # Gradio has forgotten which choices it had sent
    page.locator("#card [data-act=add]").click()
    wait_for_basket(page, 3)
    open_tab(page, "Use it")
    is_shown(page, "#use-python", r"Edit\(178, 20.00\), Edit\(\d+")
    open_tab(page, "Steer LLaVA")
    page.locator("#answers .cb-main").wait_for()
    assert page.locator("#question textarea").input_value() == "Describe the image."


def test_what_others_inspect_takes_no_inspected_picture_away(visit, address):
    page = visit("?tab=inspect&seen=s1")
    page.locator(".cb-cell").first.wait_for()
    for image in range(2, 80):
        post(address, "sample", [None, True])
        post(address, "where", [None, f"s{image}", True, "", None])
    page.locator(".cb-cell").nth(9).click()
    is_shown(page, "#neurons", "patch row 2, column 2")


# ------------------------------------------------------------- what shows something drops nothing (point 5)


def test_a_dot_of_the_map_leaves_the_basket_and_the_rest(visit):
    page = visit(LLAVA.replace("llava", "scores") + "&q=pizza&words=zeppelin")
    wait_for_basket(page, 2)
    maps = page.locator(".cb-map")
    for place, model in ((1, None), (0, "emoji-sae")):
        open_tab(page, "Map and scores")
        maps.nth(place).locator("canvas").wait_for()
        page.wait_for_function("(i) => document.querySelectorAll('.cb-map')[i].points?.length", arg=place)
        point = page.evaluate("(i) => { const p = document.querySelectorAll('.cb-map')[i].points[7]; "
                              "return [p.x, p.y] }", place)  # fmt: skip
        maps.nth(place).locator("canvas").click(position={"x": point[0], "y": point[1]})
        says(page, tab="neuron", m=model, q="pizza", words="zeppelin", ask="Describe the image.", pic="s17")
        if model is None:
            wait_for_basket(page, 2)
    wait_for_basket(page, 0)  # neurons are another model's: each model has its basket
    is_shown(page, "#dock .cb-dock-said", "basket of emoji-cbsae waits")
    page.reload()
    page.wait_for_function("() => window.cbPage?.search && !cbPage.busy")  # the address has brought everything back
    page.locator("#model input").click()
    page.get_by_role("option", name="emoji-cbsae").click()
    wait_for_basket(page, 2)
    assert [title.split("#")[1] for title, _ in basket_of(page)] == ["275", "178"]


def test_a_worked_example_can_be_taken_back(visit):
    page = visit("?tab=start&b=275:40.000,178:20.000&q=pizza&ask=Mine%3F&word=sun&alone=1&words=zeppelin")
    wait_for_basket(page, 2)
    settled(page)
    before = said(page)
    page.locator(".cb-example button").first.click()
    wait_for_basket(page, 1)
    says(page, tab="llava", q="pizza", words="zeppelin", ask=None, alone=None)
    is_shown(page, "#dock .cb-dock-said", "Undo brings it back")
    page.locator("#answers .cb-main").wait_for()
    page.locator("#dock [data-undo]").click()
    wait_for_basket(page, 2)
    says(page, **before)
    assert said(page) == before


def test_copied_links_of_cards_lead_to_the_view_with_everything(visit, address):
    page = visit("?b=275:40.000", permissions=["clipboard-read", "clipboard-write"])
    wait_for_basket(page, 1)
    search(page, "pizza")
    page.locator("#results label").nth(1).click()
    page.wait_for_timeout(500)
    title = page.locator("#card h3").inner_text()
    page.locator("#card [data-link]").click()
    is_shown(page, "#dock .cb-dock-said", "Link copied")
    wait_for_basket(page, 1)
    link = page.evaluate("navigator.clipboard.readText()")
    assert link.startswith(address)
    other = visit(link.removeprefix(f"{address}/"))
    wait_for_basket(other, 1)
    is_shown(other, "#card h3", re.escape(title))


# --------------------------------------------------------------------------------------- old results (point 6)


def test_old_answers_are_marked_and_asked_anew(visit):
    page = visit(LLAVA + "&live=0")
    wait_for_basket(page, 2)
    page.locator("#ask").click()
    page.locator("#answers .cb-main").wait_for()
    page.locator("#sweep").click()
    page.locator("#swept tbody").wait_for()
    stale = page.locator("#answers .cb-stale, #swept .cb-stale")
    assert stale.count() == 0
    changes = [
        lambda: page.locator("#question textarea").fill("What is it?"),
        lambda: page.locator("#llava-samples .cb-sample").nth(3).click(),
        lambda: page.locator("#llava-where label").nth(1).click(),
        lambda: page.locator("#dock [data-act=mute]").first.click(),
        lambda: page.locator("#dock [data-act=clear]").click(),
    ]
    for change in changes:
        change()
        page.wait_for_function("() => document.querySelectorAll('#answers .cb-stale, #swept .cb-stale').length === 2")
        assert page.locator("#answers .cb-again").is_visible()
        page.locator("#answers [data-run]").click()
        page.wait_for_function("() => !document.querySelector('#answers .cb-stale')")
        page.locator("#swept [data-run]").click()
        page.wait_for_function("() => !document.querySelector('#swept .cb-stale')")
        assert not page.locator("#answers .cb-again").is_visible()


def test_old_drawings_searches_and_reports_are_marked(visit):
    first, second, *_ = strong_words()
    page = visit(f"?tab=draw&b=275:50.000&seeds=1&steps=5&draw.live=0&q={first}&words=zeppelin")
    wait_for_basket(page, 1)
    page.locator("#draw").click()
    page.locator("#drawings img").first.wait_for()
    page.locator("#seed input").fill("7")
    page.locator("#seed input").press("Enter")
    page.locator("#drawings .cb-stale").wait_for()
    page.locator("#drawings [data-run]").click()
    is_shown(page, "#drawings th", "seed 7")
    page.wait_for_function("() => !document.querySelector('#drawings .cb-stale')")
    open_tab(page, "Find concept")
    is_shown(page, "#card h3", first)
    page.locator("#query :is(input, textarea)").fill(second)
    page.locator("#verdict .cb-stale").wait_for()
    page.locator("#verdict [data-run]").click()
    is_shown(page, "#card h3", second)
    page.wait_for_function("() => !document.querySelector('#verdict .cb-stale')")
    open_tab(page, "Your concepts")
    page.locator("#own-check").click()
    is_shown(page, "#own-report tr", "zeppelin")
    page.locator("#own-words textarea").fill("pizza")
    page.locator("#own-report .cb-stale").wait_for()
    page.locator("#own-report [data-run]").click()
    is_shown(page, "#own-report tr", "pizza")
    page.wait_for_function("() => !document.querySelector('#own-report .cb-stale')")


# ------------------------------------------------------------------------------------- the address (point 11)


def test_the_address_follows_and_back_forward_and_reload_bring_everything(visit):
    page = visit()
    steps = []

    def step(*named, **wanted):
        says(page, *named, **wanted)
        page.wait_for_timeout(150)
        steps.append(said(page))

    step(tab=None)
    search(page, "pizza")
    step(tab="find", q="pizza")
    second = page.locator("#results label").nth(1)
    second.click()
    step(found=second.locator("input").get_attribute("value"))
    page.locator("#card [data-act=add]").click()
    wait_for_basket(page, 1)
    step("b", tab="find")
    page.locator("#card [data-act=open]").click()
    is_shown(page, "#neuron-page h3", "#")
    step(tab="neuron", neuron=steps[-1]["found"])
    page.locator("#neuron-next").click()
    step(neuron=str(int(steps[-1]["neuron"]) + 1))
    open_tab(page, "Inspect image")
    page.locator("#samples .cb-sample").nth(1).click()
    page.locator(".cb-cell").first.wait_for()
    step(tab="inspect")
    page.locator(".cb-cell").nth(9).click()
    step(patch="9")
    second = page.locator("#neurons label").nth(1)
    second.click()
    step(patch="9", fires=second.locator("input").get_attribute("value"))
    open_tab(page, "Steer LLaVA")
    page.locator("#question textarea").fill("Describe the image.")
    step(tab="llava", ask="Describe the image.")
    open_tab(page, "Map and scores")
    page.locator("#rows-sort input").click()
    page.get_by_role("option", name="Steerability").click()
    step(tab="scores", sort="steerability")
    page.locator("#model input").click()
    page.get_by_role("option", name="emoji-sae").click()
    step(m="emoji-sae", b=None)
    for wanted in (steps[-2], steps[-3]):
        for _ in range(2 if wanted is steps[-3] else 1):  # the tab and the order are two steps
            page.go_back()
            page.wait_for_timeout(1500)
        assert said(page) == wanted or said(page)["tab"] == "scores"
    says(page, **steps[-3], m=None)
    wait_for_basket(page, 1)
    assert page.locator("#question textarea").input_value() == "Describe the image."
    for parameters in ({"tab": "scores"}, {"sort": "steerability"}):
        page.go_forward()
        says(page, **parameters)
        page.wait_for_timeout(700)
    is_shown(page, "#rows thead", "Steerability")
    page.go_forward()
    says(page, m="emoji-sae")
    page.wait_for_function("() => document.querySelector('#model input').value === 'emoji-sae'")
    page.go_back()
    says(page, m=None)
    wait_for_basket(page, 1)
    page.reload()
    wait_for_basket(page, 1)
    page.wait_for_timeout(800)
    assert said(page) == steps[-2]
    open_tab(page, "Inspect image")
    is_shown(page, "#neurons", "patch row 2, column 2")
    is_shown(page, "#inspect-card h3", f"#{steps[8]['fires']}$")
    open_tab(page, "Neuron")
    is_shown(page, "#neuron-page h3", f"#{steps[5]['neuron']}$")
    open_tab(page, "Find concept")
    is_shown(page, "#card h3", f"#{steps[2]['found']}$")


def test_a_search_is_one_step_back(visit):
    word, other, *_ = strong_words()
    page = visit(f"?tab=find&q={word}")
    is_shown(page, "#card h3", word)
    first, before = said(page), page.locator("#card h3").inner_text()
    search(page, other)
    is_shown(page, "#card h3", other)
    settled(page)
    page.go_back()
    is_shown(page, "#card h3", re.escape(before))
    settled(page)
    assert said(page) == first
    assert page.locator("#query :is(input, textarea)").input_value() == word


def test_the_card_beside_a_search_is_of_what_was_found(visit):
    page = visit(f"?q={strong_word()}&neuron=275")  # a neuron that this search does not find
    is_shown(page, "#card h3", strong_word())
    assert page.locator("#results input:checked").count() == 1
    says(page, neuron="275", found=page.locator("#card h3").inner_text().split("#")[1])


def test_going_back_quickly_ends_where_it_should(visit):
    page = visit("?tab=neuron&neuron=0")
    is_shown(page, "#neuron-page h3", "#0$")
    for number in range(1, 7):
        page.locator("#neuron-next").click()
        says(page, neuron=str(number))
    page.evaluate("() => { history.back(); history.back(); }")
    page.evaluate("() => { history.back(); history.back(); history.back(); }")
    says(page, neuron="1")
    is_shown(page, "#neuron-page h3", "#1$")
    page.wait_for_timeout(500)
    page.evaluate("() => history.go(4)")
    says(page, neuron="5")
    is_shown(page, "#neuron-page h3", "#5$")


def test_the_basket_is_undone_step_by_step_and_nothing_else(visit):
    page = visit("?tab=llava&b=275:50.000,178:20.000&live=0")
    wait_for_basket(page, 2)
    undo = page.locator("#dock [data-undo]")
    assert undo.is_disabled()
    page.locator("#dock [data-act=remove]").first.click()
    wait_for_basket(page, 1)
    page.wait_for_timeout(300)
    page.locator("#dock [data-act=clear]").click()
    wait_for_basket(page, 0)
    page.wait_for_timeout(300)
    page.locator("#question textarea").fill("What I typed afterwards?")
    says(page, ask="What I typed afterwards?")
    undo.click()
    wait_for_basket(page, 1)
    page.wait_for_timeout(300)
    undo.click()
    wait_for_basket(page, 2)
    says(page, b="275:50.000,178:20.000", ask="What I typed afterwards?")
    page.wait_for_function("() => document.querySelector('#dock [data-undo]').disabled")


def test_the_focus_stays_at_the_basket_when_its_last_neuron_goes(visit):
    page = visit("?b=275:50.000")
    wait_for_basket(page, 1)
    page.locator("#dock [data-act=remove]").focus()
    page.keyboard.press("Enter")
    wait_for_basket(page, 0)
    page.wait_for_function("() => document.activeElement.matches('#dock [data-toggle]')")


def test_quick_clicks_add_up(visit):
    page = visit("?tab=start&b=12:20.000&words=zeppelin")
    wait_for_basket(page, 1)
    page.wait_for_timeout(500)
    page.evaluate("""() => {
      document.querySelector('.cb-example button').click();
      window.cbPage.go({ tab: 'neuron', neuron: '7' });
      window.cbPage.choose('emoji-sae', 'emoji-cbsae');
      document.querySelector('#dock [data-undo]').disabled = false;
      document.querySelector('#dock [data-undo]').click(); }""")
    # The example, the neuron and the model; then the model is taken back, whose basket another had replaced.
    says(page, tab="neuron", neuron="7", m=None, words="zeppelin")
    page.wait_for_function("() => document.querySelector('#model input').value === 'emoji-cbsae'")
    wait_for_basket(page, 1)
    page.wait_for_timeout(500)
    assert not basket_of(page)[0][0].endswith("#12"), "the example's"
    page.locator("#dock [data-undo]").click()
    page.wait_for_function("() => document.querySelector('#dock .cb-name')?.innerText.endsWith('#12')")
    says(page, b="12:20.000", words="zeppelin")


@pytest.mark.parametrize("where", ["llava", "inspect"])
def test_an_upload_survives_a_reload_and_stays_with_its_visitor(visit, address, tmp_path, where):
    page = visit(f"?tab={where}&b=275:30.000")
    wait_for_basket(page, 1)
    if where == "llava":
        page.get_by_role("button", name="Or your own").first.click()
    upload = page.locator("#llava-upload input[type=file]" if where == "llava" else "#upload input[type=file]")
    upload.set_input_files(picture_of(tmp_path, 1))
    if where == "inspect":
        is_shown(page, "#error", "Cosine")
        open_tab(page, "Steer LLaVA")
    is_shown(page, "#llava-preview figcaption", "your picture")
    says(page, "pic")
    shown = page.locator("#llava-preview img").get_attribute("src")
    assert said(page)["pic"].startswith("mine~")
    page.reload()
    is_shown(page, "#llava-preview figcaption", "your picture")
    assert page.locator("#llava-preview img").get_attribute("src") == shown, "exactly the same picture"
    page.locator("#dock [data-link]").click()
    is_shown(page, "#dock .cb-dock-said", "Your picture stays in your browser")
    other = visit(page.url.removeprefix(f"{address}/"))
    is_shown(other, "[data-testid=toast-body], .toast-body", "was uploaded")
    wait_for_basket(other, 1)
    says(other, pic=None)


def test_clicks_counters_parameters_are_left_alone_and_the_theme_stays(visit):
    page = visit("?__theme=dark&utm_source=x&fbclid=y&tab=neuron&neuron=12")
    is_shown(page, "#neuron-page h3", "#12$")
    assert page.locator("[data-testid=toast-body], .toast-body").count() == 0
    page.locator("#neuron-next").click()
    says(page, neuron="13", __theme="dark")


def test_a_long_text_is_one_step_back(visit):
    page = visit("?tab=llava")
    page.locator("#question textarea").wait_for()
    before = page.evaluate("history.length")
    page.locator("#question textarea").fill("")
    page.locator("#question textarea").press_sequentially("What do you see in it?", delay=90)
    says(page, ask="What do you see in it?")
    assert page.evaluate("history.length") <= before + 1


def test_code_follows_the_model_too(visit):
    page = visit("?tab=use")
    is_shown(page, "#use-python", "emoji-cbsae")
    page.locator("#model input").click()
    page.get_by_role("option", name="emoji-sae").click()
    is_shown(page, "#use-python", "emoji-sae")


def test_a_restart_of_the_server_takes_nothing(browser, restarted, tmp_path):
    context = browser.new_context()
    page = context.new_page()
    with restarted() as address:
        page.goto(f"{address}/{LLAVA.replace('llava', 'inspect')}&q=pizza&words=zeppelin&sort=p99")
        wait_for_basket(page, 2)
        page.locator("#upload input[type=file]").set_input_files(picture_of(tmp_path, 2))
        page.wait_for_function("() => location.search.includes('seen=mine')")
        page.locator(".cb-cell").nth(9).click()
        says(page, patch="9")
        page.wait_for_timeout(500)
        before, kept = said(page), page.locator("#error").inner_text()
    with restarted():  # nobody has noticed: what is on the page goes on, and what is not on the server is told
        page.locator("#dock [data-act=mute]").first.click()
        page.locator("#dock .cb-row.cb-muted").wait_for()
        assert [title.split("#")[1] for title, _ in basket_of(page)] == ["275", "178"]
        page.locator(".cb-cell").nth(10).click()
        is_shown(page, "[data-testid=toast-body], .toast-body", "Reload the page: your browser brings it back")
        page.reload()
        is_shown(page, "#neurons", "patch row 2, column 2")
        assert page.locator("#error").inner_text() == kept
        assert page.locator("#dock .cb-row.cb-muted").count() == 1
        says(page, **{**before, "b": "275:50.000!,178:20.000"})
        open_tab(page, "Steer LLaVA")
        is_shown(page, "#llava-preview figcaption", "your picture")
        page.locator("#answers .cb-main").wait_for()
    context.close()


def test_a_refusal_stops_nothing(visit):
    page = visit("?b=" + ",".join(f"{neuron}:50" for neuron in range(10, 15)))
    wait_for_basket(page, 5)
    page.evaluate("""() => { window.cbBasket({ act: 'add', neuron: '99' });
      window.cbBasket({ act: 'remove', neuron: '10' }); }""")
    is_shown(page, "[data-testid=toast-body], .toast-body", "holds 5 neurons")
    wait_for_basket(page, 4)


@pytest.mark.parametrize("pause", [0, 20, 60, 200])
def test_a_slider_goes_as_far_as_keys_push_it(visit, pause):
    page = visit("?tab=llava&b=275:50.000&live=0")
    wait_for_basket(page, 1)
    settled(page)
    slider, number = page.locator("#dock .cb-row [type=range]"), page.locator("#dock .cb-row [type=number]")
    slider.focus()
    start, low, high = float(slider.input_value()), *(float(slider.get_attribute(end)) for end in ("min", "max"))
    step = (high - low) / 100  # the browser's own, where any value can be
    for _ in range(30):
        page.keyboard.press("ArrowLeft")
        page.wait_for_timeout(pause)  # answers to the first arrive between the last
    wanted = start - 30 * step
    for _ in range(2):
        assert float(number.input_value()) == pytest.approx(wanted, abs=step)
        page.wait_for_timeout(1500)
    shown = float(basket_of(page)[0][1].removeprefix("= "))
    assert float(said(page)["b"].split(":")[1]) == pytest.approx(shown, abs=0.06)
