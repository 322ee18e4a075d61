"""What everybody must be able to read and use: axe-core over all views, narrow screens, zoom, and the keyboard."""

from pathlib import Path

import pytest
from actions import is_shown, wait_for_basket

FIVE = ",".join(f"{neuron}:50" for neuron in (178, 275, 10, 11)) + ",12:50!"
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 375, "height": 800}
LOOKS = {"light": ("light", DESK), "dark": ("dark", DESK), "phone": ("light", PHONE)}
RULES = {
    "resultTypes": ["violations"],
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    "rules": {"target-size": {"enabled": True}},
}


SIZES = {  # zoom: of 1280 x 900
    "200 %": (640, 450), "a phone": (375, 800), "400 %": (320, 640), "a tablet": (768, 1024), "large": (1440, 900)
}  # fmt: skip


def start(page):
    page.locator("#about summary").click()


def inspected(page):
    page.locator(".cb-cell").nth(9).click()
    is_shown(page, "#neurons", "patch row 2, column 2")


def not_found(page):
    is_shown(page, "#verdict", "not in this model")


def neuron(page):
    page.locator("#neuron-live .cb-icon").wait_for()


def settings(page):
    for name in ("Or your own", "More settings"):
        page.locator("button:visible").filter(has_text=name).click()
    page.locator("input[type=text]:visible, textarea:visible").last.wait_for()


def swept(page):
    wait_for_basket(page, 5)
    page.locator("#answers .cb-main").wait_for()
    page.locator("#sweep").click()
    page.locator("#swept tbody tr").nth(6).wait_for()


def earlier(page):
    swept(page)
    page.locator("#llava-live input").uncheck()
    page.locator("#llava-where input").last.check()
    page.locator("#swept .cb-again").wait_for()
    page.wait_for_function("() => !document.querySelector('#answers .pending, #swept .pending')")


def drawn(page):
    page.locator("#drawings img").nth(4).wait_for()


def decided(page):
    page.locator("#clip-bars meter").first.wait_for()
    page.locator("#clip-decide").click()
    page.locator("#clip-decision li").first.wait_for()


def suppressed(page):
    page.get_by_role("button", name="Two sets of yours").click()
    page.locator("#suppress-neurons li").first.wait_for()


def scored(page):
    page.locator("#rows tbody tr").nth(99).wait_for()


def checked(page):
    page.locator("#own-words textarea").fill("pinata\npizza")
    page.locator("#own-check").click()
    is_shown(page, "#own-report tr", r"pinata\s*○ missing")


def code(page):
    is_shown(page, "#use-python", r"Edit\(178, 50.00\)")


def refused(page):
    wait_for_basket(page, 5)
    page.locator("#card .cb-figure").first.wait_for()
    page.locator("#card [data-act=add]").click()
    is_shown(page, "[data-testid=toast-body]", "holds 5 neurons")
    page.wait_for_function("() => getComputedStyle(document.querySelector('[data-testid=toast-body]')).opacity === '1'")


def models(page):
    page.locator("#model input").click()
    page.get_by_role("option").first.wait_for()


def nothing(page):
    page.locator("[role=tab][aria-selected=true]").wait_for()


VIEWS = {
    "start": ("", start),
    "inspect": ("?tab=inspect", nothing),
    "a picture inspected": ("?tab=inspect&pic=s1", inspected),
    "find, and the models": ("?tab=find", models),
    "a concept not found": ("?tab=find&q=qqqqqzzz", not_found),
    "a concept found, and a refusal": (f"?tab=find&q=pizza&b={FIVE}", refused),
    "a neuron": ("?tab=neuron&neuron=12", neuron),
    "LLaVA": ("?tab=llava", settings),
    "LLaVA, answers and a sweep": (f"?tab=llava&pic=white&b={FIVE}", swept),
    "LLaVA, results of earlier settings": (f"?tab=llava&pic=white&b={FIVE}", earlier),
    "unCLIP": ("?tab=draw", settings),
    "unCLIP, drawings": ("?tab=draw&b=178:50&seeds=1&steps=5", drawn),
    "CLIP, bars and what decides": ("?tab=clip&b=275:50&pic=s17", decided),
    "Suppress": ("?tab=suppress", suppressed),
    "scores": ("?tab=scores", scored),
    "own concepts": ("?tab=own", checked),
    "code": (f"?tab=use&b={FIVE}", code),
}  # fmt: skip


@pytest.fixture(scope="module")
def axe():
    return pytest.importorskip("axe_playwright_python.sync_playwright").Axe()


@pytest.fixture(scope="module")
def shared(long_visit):
    page = long_visit()
    page.add_init_script(path=Path(__file__).with_name("accessibility.js"))
    return page


@pytest.fixture(scope="module", params=VIEWS)
def view(shared, address, request):
    """A view of the page; all tests of one view follow each other, on one page."""
    query, prepare = VIEWS[request.param]
    look(shared, "light")
    shared.goto(f"{address}/{query}")
    shared.locator("#dock .cb-dock-bar").wait_for()
    arrived = "query => window.cbPage && !cbPage.busy && (cbPage.search || !query)"
    shared.wait_for_function(arrived, arg=query)
    prepare(shared)
    return shared


def look(page, name):
    scheme, size = LOOKS[name]
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page.set_viewport_size(size)
    page.wait_for_function("dark => document.body.classList.contains('dark') === dark", arg=scheme == "dark")


def settled(page, faults):
    """What is still wrong two seconds after a change: Gradio lays its tabs out anew a moment later."""
    for _ in range(20):
        if not page.evaluate(faults):
            break
        page.wait_for_timeout(100)
    return page.evaluate(faults)


@pytest.mark.parametrize("name", LOOKS)
def test_axe_finds_nothing(view, axe, name):
    look(view, name)
    view.wait_for_function("() => !document.querySelector('.pending')")  # Gradio fades what waits for an answer
    found = axe.run(view, options=RULES).response["violations"]
    assert not found, "\n".join(
        f"{rule['id']} ({rule['impact']}): {' '.join(map(str, node['target']))}\n    {node['html'][:160]}\n    "
        + "; ".join(check["message"] for check in [*node["any"], *node["all"], *node["none"]])
        for rule in found
        for node in rule["nodes"]
    )


@pytest.mark.parametrize("size", SIZES)
def test_nothing_is_cut_off_and_the_page_does_not_scroll_sideways(view, size):
    width, height = SIZES[size]
    view.set_viewport_size({"width": width, "height": height})
    assert view.locator("h1").count() == 1
    assert settled(view, "accessibility.cut()") == []
    assert view.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("size", [DESK, {"width": 640, "height": 450}], ids=["desk", "200 %"])
def test_the_keyboard_reaches_all_and_shows_where_it_is(view, size):
    view.set_viewport_size(size)
    view.keyboard.press("Escape")  # what has opened over the page is closed before one goes on
    view.locator("[data-testid=toast-body]").wait_for(state="detached")
    view.wait_for_timeout(500)  # Gradio lays its tabs out anew a moment later
    view.evaluate("accessibility.toTheTop()")
    faults = []
    for _ in range(300):
        view.keyboard.press("Tab")
        found = view.evaluate("accessibility.stop()")
        if found is None:
            break
        faults += found
    else:
        pytest.fail("the keyboard does not get through the page")
    assert faults == []
    assert view.evaluate("accessibility.missed()") == []


def test_escape_closes_what_opens(visit):
    page = visit(f"?tab=find&q=pizza&b={FIVE}")
    wait_for_basket(page, 5)
    page.locator("#model input").click()
    page.get_by_role("option").first.wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("option").first.wait_for(state="hidden")
    page.locator("#card [data-act=add]").click()
    toast = page.locator("[data-testid=toast-body]")
    toast.wait_for()
    page.keyboard.press("Escape")
    toast.wait_for(state="detached")
    page.locator("#dock .cb-row [type=range]").first.focus()
    page.keyboard.press("Escape")
    page.locator("#dock .cb-row").first.wait_for(state="hidden")
    assert page.evaluate("document.activeElement.matches('[data-toggle][aria-expanded=false]')")
