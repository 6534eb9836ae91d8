"""What is on the screen, and what there must never be: errors in the console, requests elsewhere."""

from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Locator, Page

from tests.running import ROOT

OUTPUT = ROOT / "tests" / "output"


class Screen:
    """One page of the browser, and all that it complained about or asked for."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self._complain(message.type, message.text))
        page.on("pageerror", lambda error: self.complaints.append(f"uncaught: {error}"))
        page.on("request", lambda request: self.requests.append(request.url))

    def _complain(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.complaints.append(f"{kind}: {text}")

    def open(self, view: str = "explore", model: str = "") -> Page:
        """Go to a view, with a model if one is given."""
        self.page.goto(f"{self.url}#{view}" + (f"/{model}" if model else ""))
        self.page.get_by_role("tab", name=view.capitalize(), selected=True).wait_for()
        return self.page

    def figure(self, title: str, within: Locator | None = None) -> Locator:
        """A chart by its heading, drawn."""
        root = within or self.page.get_by_role("tabpanel")
        found = root.locator("figure").filter(has=self.page.get_by_role("heading", name=title, exact=True))
        found.scroll_into_view_if_needed()
        found.locator(".plot svg").first.wait_for()
        return found

    def numbers(self, figure: Locator) -> list[list[str]]:
        """The rows of a chart's table, opened the way one opens it."""
        details = figure.locator("details.table-toggle")
        if details.get_attribute("open") is None:
            details.locator("summary").click()
        return rows(figure.locator("tbody"))

    def code(self, view: str, language: str = "python") -> str:
        """The code that a view shows, with what is folded of it."""
        block = self.page.locator(f"#{view} pre[data-language={language}]")
        for _ in range(block.locator(".folded").count()):
            block.locator(".folded").first.click()
        return block.inner_text()

    def rejected(self, status: int) -> None:
        """Take note that one answer was to be an error of this status: the browser says so too."""
        until = next((i for i, text in enumerate(self.complaints) if f"status of {status}" in text), None)
        assert until is not None, f"no answer was {status}: {self.complaints}"
        del self.complaints[until]

    def elsewhere(self) -> list[str]:
        """Requests that left the page's own origin."""
        ours = urlsplit(self.url)
        return [
            url
            for url in self.requests
            if urlsplit(url).scheme in ("http", "https") and urlsplit(url).netloc != ours.netloc
        ]

    def keep(self, name: str, whole: bool = True) -> Path:
        """A picture of the whole page, or of its first screen, to be looked at."""
        OUTPUT.mkdir(exist_ok=True)
        self.page.evaluate("scrollTo(0, 0)")
        path = OUTPUT / f"playground-{name}.png"
        self.page.screenshot(path=path, full_page=whole)
        return path


def rows(body: Locator) -> list[list[str]]:
    """The cells of a table's body, in one call."""
    found: list[list[str]] = body.evaluate(
        "body => [...body.rows].map((row) => [...row.cells].map((cell) => cell.textContent))"
    )
    return found


def value(text: str) -> float:
    """A number as the page writes it."""
    return float(text.replace("\u202f", "").replace("\u2212", "-"))


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"
