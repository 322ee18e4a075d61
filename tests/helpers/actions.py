"""What visitors do on the page."""

import re
from urllib.parse import parse_qs

import pytest


def search(page, text):
    """Looks a concept up, from whatever tab, and waits for the answer: until then, the card is that of another."""
    open_tab(page, "Find concept")
    box = page.locator("#query textarea, #query input").first
    box.fill(text)
    box.press("Enter")
    answered = "text => JSON.parse(document.querySelector('#verdict .cb-result')?.dataset.of ?? '{}').q === text"
    page.wait_for_function(answered, arg=text)


def is_shown(page, selector, pattern):
    """Waits until something that matches is on the page."""
    page.locator(selector).filter(has_text=re.compile(pattern)).first.wait_for()


def settled(page):
    """Waits until the page is where its address wants it, and nothing is being asked: no clock of Gradio's runs.

    An answer may ask for the next one a moment later.
    """
    quiet = """() => window.cbPage && !window.cbPage.busy && !document.querySelector('.cb-spin, .pending')
        && ![...document.querySelectorAll('.meta-text, .meta-text-center')].some(clock => clock.offsetParent)"""
    for _ in range(20):
        page.wait_for_function(quiet)
        page.wait_for_timeout(300)
        if page.evaluate(quiet):
            return
    raise AssertionError("the page does not come to rest")


def open_tab(page, name):
    """Opens a tab by the mouse."""
    page.get_by_role("tab", name=name, exact=True).click()


def basket_of(page):
    """Titles and absolute strengths of what is in the basket, as its rows say."""
    rows = page.locator("#dock .cb-row")
    return [
        (rows.nth(i).locator(".cb-name").inner_text(), rows.nth(i).locator(".cb-other").inner_text())
        for i in range(rows.count())
    ]


def wait_for_basket(page, count):
    """Waits until the basket holds so many neurons."""
    page.locator(f'#dock [data-count="{count}"]').wait_for()


def said(page):
    """What the address says."""
    return {key: values[0] for key, values in parse_qs(page.url.partition("?")[2], keep_blank_values=True).items()}


def says(page, *named, **wanted):
    """Waits until the address says so, and says anything at all of what is named; None is what it does not say."""
    for _ in range(200):
        now = said(page)
        if all(key in now for key in named) and all(now.get(key) == value for key, value in wanted.items()):
            return
        page.wait_for_timeout(50)
    pytest.fail(f"the address says {now}, not {wanted}")
