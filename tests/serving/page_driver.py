"""What a person with a keyboard does on the page of ``llmrec serve`` and sees there, as methods."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait


@dataclass
class Page:
    """The page at ``url`` in ``browser``, whose performance and console logs are on."""

    browser: webdriver.Chrome
    url: str
    _urls: list[str] = field(default_factory=list)

    def open(self) -> None:
        self.browser.set_window_size(1280, 1000)
        for name in ("browser", "performance"):
            self.browser.get_log(name)  # of the test before
        self.browser.get(self.url)

    def find(self, selector: str) -> WebElement:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        """Of all that match, in one go: exactly the text nodes, whatever CSS makes of them."""
        script = "return [...document.querySelectorAll(arguments[0])].map((element) => element.textContent)"
        return self.browser.execute_script(script, selector)

    def attributes(self, selector: str, name: str) -> list[str]:
        script = (
            "return [...document.querySelectorAll(arguments[0])].map((element) => element.getAttribute(arguments[1]))"
        )
        return self.browser.execute_script(script, selector, name)

    def wait(self, condition: Callable[[], Any]) -> Any:
        return WebDriverWait(self.browser, 20, poll_frequency=0.05).until(lambda _: condition())

    def press(self, *keys: str) -> None:
        ActionChains(self.browser).send_keys(*keys).perform()

    def ctrl_enter(self) -> None:
        ActionChains(self.browser).key_down(Keys.CONTROL).send_keys(Keys.ENTER).key_up(Keys.CONTROL).perform()

    @property
    def focused(self) -> WebElement:
        return self.browser.switch_to.active_element

    def ready(self) -> None:
        self.wait(lambda: self.find("#num-items").text != "–")

    def choose(self, text: str, downs: int = 1) -> None:
        """Search, step down to a match and take it; the focus is in the search box before and after."""
        before = len(self.all("#history li"))
        self.press(text)
        self.wait(lambda: self.all("#matches li") and self.find("#search").get_attribute("aria-expanded") == "true")
        self.press(*[Keys.ARROW_DOWN] * downs, Keys.ENTER)
        assert len(self.all("#history li")) == before + 1

    def ask(self) -> None:
        """Ctrl+Enter, and wait for the list."""
        self.ctrl_enter()
        self.wait(lambda: "recommendation" in self.find("#status").text)

    def set_number(self, name: str, number: int) -> None:
        self.browser.execute_script("document.getElementById(arguments[0]).focus()", name)
        ActionChains(self.browser).key_down(Keys.CONTROL).send_keys("a").key_up(Keys.CONTROL).perform()
        self.press(str(number))

    def complaints(self) -> list[str]:
        """Console errors, violations of the content security policy among them."""
        return [entry["message"] for entry in self.browser.get_log("browser")]

    def requested(self) -> list[str]:
        """All addresses since the page was opened."""
        messages = [json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")]
        self._urls += [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return self._urls


def contrast(page: Page, selector: str) -> float:
    """Ratio of WCAG 2 between the text's colour and the background that it stands on."""
    script = """
      let element = document.querySelector(arguments[0]);
      const ink = getComputedStyle(element).color;
      while (getComputedStyle(element).backgroundColor === 'rgba(0, 0, 0, 0)') element = element.parentElement;
      return [ink, getComputedStyle(element).backgroundColor].map((color) => color.match(/[0-9.]+/g).map(Number));
    """
    ink, ground = page.browser.execute_script(script, selector)
    light, dark = sorted((_luminance(ink), _luminance(ground)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(color: list[float]) -> float:
    linear = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in color[:3]]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
