"""The page as its visitors have it: app.py in a process of its own, on the shipped model, in Debian's chromium."""

import shutil
import time
import urllib.request
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from scripts import free_port, start_program

ROOT = Path(__file__).parents[2]
LEFT = (
    "AbortError",
    "Connection errored out",
    "Unexpected error 404: Not Found",
    "ERR_INCOMPLETE_CHUNKED_ENCODING",  # the stream of an answer, cut by a reload
    "network error",
)


@contextmanager
def served(folder, port, *arguments):
    """app.py in a process of its own; its address."""
    log = folder / "log.txt"
    process = start_program(
        ROOT / "app.py", "--port", port, *arguments,
        cwd=folder, stdout=log, stderr=log, GRADIO_TEMP_DIR=str(folder / "gradio"),
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(1800):  # importing takes a minute where many others run
            assert process.is_alive(), log.read_text()
            try:
                urllib.request.urlopen(url, timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        else:
            pytest.fail(f"the page did not start: {log.read_text()}")
        yield url
    finally:
        process.terminate()
        process.join(10)
        assert not process.is_alive(), "it ends when it is told to"


@pytest.fixture(scope="session")
def address(tmp_path_factory):
    with served(tmp_path_factory.mktemp("app"), free_port()) as url:
        yield url


@pytest.fixture
def restarted(tmp_path):
    """Starts the page, at the same address each time."""
    port = free_port()
    return lambda: served(tmp_path, port)


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on this machine (Debian: apt install chromium)")
    with playwright.sync_playwright() as driver:
        arguments = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking"]
        launched = driver.chromium.launch(executable_path=chromium, args=arguments)
        yield launched
        launched.close()


@contextmanager
def _visits(browser, address):
    """Opens the page for a new visitor, at a query if one is given; in the end, all must have been well.

    Hosts that a page asks for anything are in ``page.hosts``, what its console complains of in ``page.complaints``.
    """
    contexts, pages = [], []

    def arrive(query="", **options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        pages.append(page)
        page.set_default_timeout(15_000)
        page.hosts, page.complaints, page.documents = set(), [], 0

        def asked(request):
            page.documents += request.is_navigation_request()
            if "//" in request.url:
                page.hosts.add(request.url.split("/")[2])

        page.on("request", asked)
        page.on("console", lambda told: page.complaints.append(told.text) if told.type == "error" else None)
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.goto(f"{address}/{query}")
        page.locator("#dock .cb-dock-bar").wait_for()
        return page

    yield arrive
    for page in pages:
        if page.documents > 1:  # Gradio's own, where a visitor leaves a page that still waits for something
            page.complaints = [told for told in page.complaints if not any(left in told for left in LEFT)]
        assert page.hosts <= {address.split("/")[2], ""}, "no request leaves the machine"
        assert page.complaints == []
    for context in contexts:
        context.close()


@pytest.fixture
def visit(browser, address):
    """See :func:`_visits`."""
    with _visits(browser, address) as arrive:
        yield arrive


@pytest.fixture(scope="module")
def long_visit(browser, address):
    """The same for tests that share a page."""
    with _visits(browser, address) as arrive:
        yield arrive


@pytest.fixture(scope="module")
def visit_of(browser, tmp_path_factory):
    """Serves app.py with other arguments, and opens its page for new visitors."""
    with ExitStack() as stack:

        def serve(*arguments):
            address = stack.enter_context(served(tmp_path_factory.mktemp("app"), free_port(), *arguments))
            return stack.enter_context(_visits(browser, address))

        yield serve


@pytest.fixture
def page(visit):
    """A new visitor at the page's start."""
    return visit()
