"""The page at ``/`` in a real Chromium over the real server, driven by the keyboard."""

import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from llmrec.catalog import Catalog
from tests.serving.conftest import TITLES, Server

pytest.importorskip("selenium", reason="selenium drives the browser: pip install selenium")
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.serving.page_driver import Page, contrast
from tests.serving.test_ulmrec import make_checkpoint

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "llmrec" / "serving" / "http" / "page"
KEY = "a-key-for-tests"
ADMIN_KEY = "another-key-for-tests"
NUM_LEVELS = 3

_FLAGS = [
    "--no-sandbox",
    "--headless=new",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-dev-shm-usage",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no chromium with chromedriver on this machine: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in _FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield chrome
    chrome.quit()


@pytest.fixture(scope="module")
def server(serve: Callable[..., Server], checkpoint_folder: Path) -> Server:
    return serve(checkpoint_folder, "--engine", "transformers")


@pytest.fixture(scope="module")
def locked_server(serve: Callable[..., Server], checkpoint_folder: Path) -> Server:
    return serve(
        checkpoint_folder, "--engine", "transformers", env={"LLMREC_API_KEYS": KEY, "LLMREC_ADMIN_KEY": ADMIN_KEY}
    )


@pytest.fixture
def page(browser: webdriver.Chrome, server: Server) -> Iterator[Page]:
    """The page, loaded; whatever the test does, the console stays empty and no other host is asked."""
    page = Page(browser, server.url)
    page.open()
    page.ready()
    yield page
    assert page.complaints() == []
    requested = page.requested()
    assert requested
    assert [url for url in requested if not url.startswith(server.url)] == []


def _post(server: Server, body: dict) -> dict:
    answer = httpx.post(f"{server.url}/v1/recommendations", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_server_is_introduced(page: Page, server: Server) -> None:
    state = server.get("/v1/catalog")
    assert page.find("h1").text == server.get("/v1/models")["data"][0]["id"]
    assert page.find("#num-items").text == "60"
    assert page.find("#codebooks").text == "3 (8 × 8 × 4)"
    assert page.find("#fingerprint").text == state["catalog"]


def test_keyboard_alone_gets_what_the_api_returns(page: Page, server: Server) -> None:
    assert page.focused.get_attribute("id") == "search"
    page.choose("FILM sea", downs=3)
    page.choose("film 41")
    page.ask()
    history = ["2", "41"]
    answer = _post(server, {"users": [{"history": history}], "k": 10})["data"][0]["items"]
    assert len(answer) == 10
    assert page.attributes("#recommendations li", "data-item-id") == [item["item_id"] for item in answer]
    assert page.texts("#recommendations .title") == [item["title"] for item in answer]
    shown = [float(text.replace("−", "-")) for text in page.texts("#recommendations .score")]
    assert shown == pytest.approx([item["score"] for item in answer], abs=1e-3)
    for text, item in zip(page.texts("#recommendations .numbers span:first-child"), answer, strict=True):
        percent = 100 * math.exp(item["score"])
        if text.startswith("<"):
            assert percent < 0.01
        else:
            assert float(text.removesuffix("\N{NO-BREAK SPACE}%")) == pytest.approx(percent, rel=0.06)
    assert page.find("#problem").text == ""
    # asked once, although Enter alone would have sent the form too
    assert [url for url in page.requested() if url.endswith("/v1/recommendations")] == [
        f"{server.url}/v1/recommendations"
    ]


def test_combobox_follows_the_pattern(page: Page) -> None:
    search = page.find("#search")
    page.press("film 1")
    page.wait(lambda: search.get_attribute("aria-expanded") == "true")
    assert search.get_attribute("aria-activedescendant") is None
    page.press(Keys.ARROW_DOWN)
    options = page.all("#matches [role=option]")
    assert search.get_attribute("aria-activedescendant") == options[0].get_attribute("id")
    assert [option.get_attribute("aria-selected") for option in options[:2]] == ["true", "false"]
    page.press(Keys.ARROW_UP, Keys.ARROW_UP)  # over the input to the last one
    assert search.get_attribute("aria-activedescendant") == options[-1].get_attribute("id")
    page.press(Keys.ESCAPE)
    assert search.get_attribute("aria-expanded") == "false"
    assert not page.find("#matches").is_displayed()
    assert search.get_attribute("value") == "film 1"
    page.press(Keys.ESCAPE)
    assert search.get_attribute("value") == ""
    page.press("no such film", Keys.ENTER)
    page.wait(lambda: page.find("#history-status").text == "No title matches.")
    assert page.all("#history li") == []
    assert page.focused == search


def test_history_moves_and_shrinks_and_keeps_the_focus(page: Page) -> None:
    for number in (11, 12, 13):
        page.choose(f"film {number}")
    titles = [f"Film {number} of the sea" for number in (11, 12, 13)]
    assert page.texts("#history .title") == titles
    up = page.all("#history li:nth-child(3) button")[0]
    assert up.accessible_name == f"Move up: {titles[2]}"
    up.send_keys(Keys.ENTER)
    assert page.texts("#history .title") == [titles[0], titles[2], titles[1]]
    assert page.focused.accessible_name == f"Move up: {titles[2]}"
    page.press(Keys.ENTER)
    assert page.texts("#history .title") == [titles[2], titles[0], titles[1]]
    assert page.focused.accessible_name == f"Remove: {titles[2]}"  # the first one has nowhere to go
    page.press(Keys.ENTER)
    assert page.texts("#history .title") == [titles[0], titles[1]]
    assert page.focused.accessible_name == f"Remove: {titles[0]}"
    page.press(Keys.ENTER, Keys.ENTER)
    assert page.all("#history li") == []
    assert page.focused.get_attribute("id") == "search"


def test_pasted_ids_are_looked_up_and_unknown_ones_named(page: Page) -> None:
    page.find(".paste summary").send_keys(Keys.ENTER)
    page.find("#pasted").send_keys("7, nobody,8\n\n 7\n")
    page.find("#add-pasted").send_keys(Keys.ENTER)
    page.wait(lambda: page.find("#history-problem").text)
    assert page.find("#history-problem").text == "Not in the catalogue: nobody"
    assert page.texts("#history .title") == [TITLES[7], TITLES[8], TITLES[7]]
    assert page.find("#pasted").get_attribute("value") == "nobody"
    assert [text for text in page.complaints() if "404" not in text] == []  # Chromium logs the answer to the look-up


def test_a_random_history_is_of_catalogue_items(page: Page) -> None:
    drawn = set()
    for _ in range(4):
        page.find("#surprise").send_keys(Keys.ENTER)
        page.wait(lambda: "drawn at random" in page.find("#history-status").text)
        titles = page.texts("#history .title")
        assert 1 <= len(titles) <= 6
        assert set(titles) <= set(TITLES)
        drawn.add(tuple(titles))
        page.find("#clear").send_keys(Keys.ENTER)
    assert len(drawn) > 1


def test_tree_has_every_level_with_live_and_dead_beams(page: Page, server: Server) -> None:
    page.choose("film 5")
    page.set_number("num-beams", 12)
    page.ask()
    body = {"users": [{"history": ["5"]}], "k": 10, "num_beams": 12, "trace": True}
    answer = _post(server, body)["data"][0]
    for level, beams in enumerate(answer["trace"]["levels"], start=1):
        drawn = f"#tree [role=treeitem][aria-level='{level}']"
        alive = {",".join(map(str, beam["codes"])) for beam in beams if beam["survives"]}
        dead = {",".join(map(str, beam["codes"])) for beam in beams if not beam["survives"]}
        assert set(page.attributes(f"{drawn}:not(.dead)", "data-codes")) == alive
        cut = page.attributes(f"{drawn}.dead", "data-codes")
        assert set(cut) <= dead
        assert len(cut) == min(len(dead), 6)
        assert len(page.all(f"{drawn} path.edge")) == len(alive) + len(cut)
    assert len(page.all("#tree .dead")) > 0
    leaves = page.attributes(f"#tree .recommended[aria-level='{NUM_LEVELS}']", "data-codes")
    assert sorted(leaves) == sorted(",".join(map(str, item["semantic_id"])) for item in answer["items"])
    # the tables hold all that the server sent
    rows = [len(page.all(f"#levels table:nth-child({level}) tbody tr")) for level in range(1, NUM_LEVELS + 1)]
    assert rows == [len(beams) for beams in answer["trace"]["levels"]]
    _assert_no_overlap(page)


def _assert_no_overlap(page: Page) -> None:
    script = """return [...document.querySelectorAll('#tree circle.node')].map(
        (node) => ['cx', 'cy', 'r'].map((name) => Number(node.getAttribute(name))))"""
    circles = page.browser.execute_script(script)
    for place, (x, y, radius) in enumerate(circles):
        for other_x, other_y, other_radius in circles[:place]:
            assert math.hypot(x - other_x, y - other_y) >= radius + other_radius


def test_arrow_keys_walk_the_tree(page: Page) -> None:
    page.choose("film 5")
    page.set_number("num-beams", 12)
    page.ask()
    assert len(page.all("#tree [tabindex='0']")) == 1  # one stop for Tab
    page.find("#recommendations .semantic-id").send_keys(Keys.ENTER)
    best = page.find("#recommendations .title").text
    leaf = page.focused
    assert leaf.get_attribute("aria-label").startswith(f"number 1: {best}, ")
    assert page.find("#beam").text.endswith(best)
    page.press(Keys.ARROW_LEFT)
    parent = page.focused.get_attribute("data-codes")
    assert leaf.get_attribute("data-codes").startswith(f"{parent},")
    page.press(Keys.ARROW_RIGHT)
    assert page.focused == leaf
    page.press(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert page.focused.get_attribute("aria-level") == "1"
    page.press(Keys.ARROW_LEFT)  # the root has no figures: the focus stays
    assert page.focused.get_attribute("aria-level") == "1"
    page.press(Keys.END)
    assert page.focused.get_attribute("aria-selected") == "true"
    facts = dict(zip(page.texts("#beam dt"), page.texts("#beam dd"), strict=True))
    assert facts["Codes"] == page.focused.get_attribute("data-codes")
    assert int(facts["Items under it"]) >= 1
    assert page.attributes("#tree .lit", "data-codes") == [facts["Codes"]]
    ActionChains(page.browser).move_to_element(leaf.find_element(By.CSS_SELECTOR, "circle.node")).perform()
    assert page.find("#beam").text.endswith(best)  # the pointer does the same
    assert len(page.all("#tree .lit")) == NUM_LEVELS


def test_titles_are_text_whatever_they_spell(page: Page) -> None:
    hostile = ["<a_1><b_2>", "<img src=x onerror=boom()>"]
    for title in hostile:
        page.choose(title)
    assert page.texts("#history .title") == hostile
    page.find("#exclude-seen").send_keys(Keys.SPACE)
    page.set_number("k", 60)
    page.set_number("num-beams", 60)
    page.ask()
    assert sorted(page.texts("#recommendations .title")) == sorted(TITLES)
    assert page.all("img") == []
    assert page.all("body [onerror], body [style], script:not([src])") == []
    in_tree = [text.split(". ", 1)[1] for text in page.texts("#tree .item")]
    assert sorted(in_tree) == sorted(TITLES)
    assert set(hostile) <= set(page.texts("#levels td"))


def test_rules_of_the_form_reach_the_server(page: Page, server: Server) -> None:
    page.choose("film 5")
    page.set_number("k", 5)
    page.set_number("max-per-first-code", 1)
    page.ask()
    answer = _post(server, {"users": [{"history": ["5"]}], "k": 5, "max_per_first_code": 1})["data"][0]["items"]
    assert page.attributes("#recommendations li", "data-item-id") == [item["item_id"] for item in answer]
    assert len({item["semantic_id"][0] for item in answer}) == len(answer) == 5


def test_errors_are_words_in_a_live_region(page: Page) -> None:
    problem = page.find("#problem")
    assert problem.get_attribute("role") == "alert"
    page.ctrl_enter()
    page.wait(lambda: "history is empty" in problem.text)
    page.choose("film 5")
    page.set_number("k", 5000)
    page.ctrl_enter()
    page.wait(lambda: "the limit is 100" in problem.text)
    page.set_number("k", 10)
    page.ask()
    assert problem.text == ""
    assert [text for text in page.complaints() if "422" not in text] == []  # Chromium logs the refusal


def test_everything_has_a_name_and_a_place_in_the_order(page: Page) -> None:
    assert page.find("html").get_attribute("lang") == "en"
    assert [element.tag_name for element in page.all("body > header, body > main")] == ["header", "main"]
    assert len(page.all("h1")) == 1
    page.choose("film 5")
    page.choose("film 6")
    page.ask()
    page.browser.execute_script("document.querySelectorAll('.levels').forEach((element) => { element.open = true; })")
    controls = page.all("main :is(input, button, summary, table, [role=tree], [role=treeitem])")
    shown = [control for control in controls if control.is_displayed()]
    assert len(shown) > 50
    assert [control.get_attribute("outerHTML") for control in shown if not control.accessible_name] == []
    ids = page.attributes("[id]", "id")
    assert len(ids) == len(set(ids))
    page.browser.execute_script("document.getElementById('search').focus()")
    order = []
    for _ in range(13):
        page.press(Keys.TAB)
        order.append(page.focused.get_attribute("id") or page.focused.accessible_name)
    up, off = (f"{action}: Film %d of the sea" for action in ("Move up", "Remove"))
    buttons = [off % 5, up % 6, off % 6]  # the first one cannot move up
    fields = ["k", "num-beams", "max-per-first-code", "exclude-seen", "recommend"]
    assert order[:12] == [*buttons, "surprise", "clear", "Paste item ids", *fields, order[11]]
    assert order[11].endswith("show in the beam tree")


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_can_be_read(page: Page, width: int, scheme: str) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    try:
        page.choose("film 5")
        page.set_number("num-beams", 50)
        page.ask()
        assert page.browser.execute_script("return document.documentElement.scrollWidth") <= width
        for selector in ("h1", ".hint", "#recommend", ".recommendations .title", ".score", ".semantic-id", ".brand"):
            assert contrast(page, selector) >= 4.5, selector
    finally:
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_the_page_asks_for_a_key(browser: webdriver.Chrome, locked_server: Server) -> None:
    page = Page(browser, locked_server.url)
    page.open()
    page.wait(lambda: page.find("#key-dialog").is_displayed())
    assert page.focused.get_attribute("id") == "key"
    assert page.find("#num-items").text == "–"
    page.press("not-the-key", Keys.ENTER)
    page.wait(lambda: page.find("#key-problem").text == "The server refused the key.")
    page.press(Keys.ESCAPE)
    page.wait(lambda: "API key" in page.find("#problem").text)
    page.find("#change-key").send_keys(Keys.ENTER)
    page.press(KEY, Keys.ENTER)
    page.ready()
    assert not page.find("#key-dialog").is_displayed()
    assert page.find("#problem").text == ""
    page.find("#search").click()
    page.choose("film 5")
    page.ask()
    assert len(page.all("#recommendations li")) == 10
    assert browser.execute_script("return [localStorage.length, document.cookie]") == [0, ""]
    assert KEY not in browser.page_source
    browser.refresh()  # the tab remembers
    page.ready()
    assert [text for text in page.complaints() if "401" not in text] == []
    browser.execute_script("sessionStorage.clear()")


def test_a_model_that_writes_titles_recommends_without_a_tree(
    browser: webdriver.Chrome, serve: Callable[..., Server], tmp_path: Path
) -> None:
    server = serve(make_checkpoint(tmp_path / "titles", "titles"), "--engine", "transformers")
    page = Page(browser, server.url)
    page.open()
    page.ready()
    page.choose("film 5")
    page.ask()
    answer = _post(server, {"users": [{"history": ["5"]}], "k": 10})["data"][0]["items"]
    assert page.attributes("#recommendations li", "data-item-id") == [item["item_id"] for item in answer]
    shown = [float(text.replace("−", "-")) for text in page.texts("#recommendations .score")]
    assert shown == pytest.approx([item["score"] for item in answer], abs=1e-3)
    assert not page.find("#search-tree").is_displayed()
    assert page.find("#problem").text == ""
    assert page.complaints() == []


def test_a_reloaded_catalogue_shows_itself(
    browser: webdriver.Chrome, locked_server: Server, catalog: Catalog, tmp_path: Path
) -> None:
    items = catalog.items.set_column(1, "title", [[f"New {title}" for title in catalog.titles]])
    renamed = Catalog(items, catalog.semantic_ids, catalog.codebook_sizes)
    renamed.save(tmp_path)
    page = Page(browser, locked_server.url)
    page.open()
    page.wait(lambda: page.find("#key-dialog").is_displayed())
    page.press(KEY, Keys.ENTER)
    page.ready()
    page.find("#search").click()
    page.choose("film 5")
    page.ask()
    assert page.find("#fingerprint").text == catalog.fingerprint
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    answer = httpx.post(
        f"{locked_server.url}/v1/catalog/reload", json={"folder": str(tmp_path)}, headers=headers, timeout=30
    )
    assert answer.status_code == 200, answer.text
    page.ctrl_enter()
    page.wait(lambda: page.find("#fingerprint").text == renamed.fingerprint)
    assert all(title.startswith("New ") for title in page.texts("#recommendations .title"))


def test_nothing_comes_from_elsewhere() -> None:
    """The files name no other host, and hold no script or style that a policy of 'self' would refuse."""
    for path in PAGE.iterdir():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "://" not in text, path.name
        assert "innerHTML" not in text, path.name
        assert "style=" not in text, path.name
    markup = (PAGE / "index.html").read_text()
    assert markup.count("<script") == markup.count('<script type="module" src="/page/') == 1
    assert "<style" not in markup
