"""The page of `nmt serve` in a real browser: with the mouse, with the keyboard alone, on a phone, in the dark."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Dialog, Locator, Page, Route, expect, sync_playwright

from nmt.files import write_json
from nmt.translator import Translator
from nmt.word_view import word_view
from tests.bundles import write_bundle
from tests.serve_process import Server, serving

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.xdist_group("serving"),
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"),
]
expect.set_options(timeout=60_000)
LINE = "她有3只猫和2条狗。"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Untrained bundles with attention and without."""
    root = tmp_path_factory.mktemp("bundles")
    folders = {kind: write_bundle(root / kind / "bundle", kind) for kind in ("additive", "none")}
    decoding = {
        "length_penalty": 1.0,
        "coverage_penalty": 0.0,
        "max_length_ratio": 1.0,
        "max_length_extra": 2,
        "batch_sentences": 8,
    }
    write_json(folders["additive"] / "decoding.json", {"beam_size": 3, "n_best": 1, **decoding})
    return folders


@pytest.fixture(scope="module")
def server(bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with attention."""
    with serving(bundles["additive"], tmp_path_factory.mktemp("log") / "log") as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium without a window."""
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def complaints() -> list[str]:
    """What the page's console said: errors, and what the content security policy forbade."""
    return []


@pytest.fixture
def page(browser: Browser, server: Server, complaints: list[str]) -> Iterator[Page]:
    """The page, loaded; a complaint that a test does not expect fails it."""
    with browser.new_context() as context:
        opened = context.new_page()
        watch(opened, complaints)
        opened.goto(server.url)
        expect(opened.locator("label[for=source]")).to_have_text("Sentence in Chinese")
        yield opened
    assert complaints == []


def watch(page: Page, complaints: list[str]) -> None:
    """Collect what goes wrong in a page."""

    def hear(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            complaints.append(message.text)

    def refuse(dialog: Dialog) -> None:
        complaints.append(dialog.message)
        dialog.dismiss()

    page.on("console", hear)
    page.on("dialog", refuse)
    page.on("pageerror", lambda error: complaints.append(str(error)))


def words(page: Page, side: str) -> Locator:
    """The words of one side ("read" or "written")."""
    return page.locator(f".words[aria-label='Words that were {side}'] button")


def shares(side: Locator) -> list[float]:
    """How strongly each word is marked."""
    values = side.evaluate_all("all => all.map(one => getComputedStyle(one).getPropertyValue('--share'))")
    return [float(value) for value in values]


def translate(page: Page, text: str) -> None:
    """Type and press Enter."""
    page.get_by_label("Sentence in Chinese").fill(text)
    page.keyboard.press("Enter")


def test_pointing_at_a_word_shows_where_it_looked(page: Page, bundles: dict[str, Path]) -> None:
    """The words, and the weights under the pointer, are the translator's; the other way round they are a column."""
    translator = Translator.load(bundles["additive"], device="cpu", threads=1)
    (translation,) = translator.translate([LINE])
    view = word_view(translation, translation.hypotheses[0], translator.bundle.config.languages)
    assert view.weights is not None
    translate(page, LINE)
    expect(page.locator(".translation")).to_have_text(translation.hypotheses[0].text)
    read, written = words(page, "read"), words(page, "written")
    expect(written).to_have_text(view.target)
    expect(read).to_have_text([*view.source[:-1], "⏎"])
    assert shares(read) == [0] * len(view.source)
    for i in (0, len(view.target) - 1):
        written.nth(i).hover()
        assert shares(read) == pytest.approx(list(view.weights[i]), abs=1e-4)
        best = int(view.weights[i].argmax())
        expect(read.nth(best)).to_contain_text(f"{view.weights[i, best]:.0%}")
    read.nth(1).hover()
    assert shares(written) == pytest.approx(list(view.weights[:, 1]), abs=1e-4)
    page.locator("h1").hover()
    assert shares(written) == [0] * len(view.target)


def test_the_keyboard_is_enough(page: Page) -> None:
    """From the sentence to its last word and back without a mouse; each word tells its shares to a screen reader."""
    expect(page.get_by_label("Sentence in Chinese")).to_be_focused()
    page.keyboard.insert_text(LINE)
    page.keyboard.press("Enter")
    read, written = words(page, "read"), words(page, "written")
    expect(page.get_by_role("status")).to_have_text(page.locator(".translation").inner_text())
    for place in ("button[type=submit]", "#beam"):
        page.keyboard.press("Tab")
        expect(page.locator(place)).to_be_focused()
    page.keyboard.press("Tab")
    expect(read.first).to_be_focused()
    assert max(shares(written)) > 0
    page.keyboard.press("Tab")
    expect(written.first).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(written.nth(1)).to_be_focused()
    page.keyboard.press("End")
    expect(written.last).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(written.last).to_be_focused()
    expect(written.last).to_have_accessible_description(re.compile(r"^looked at .+ \d+%"))
    expect(written.last).to_have_attribute("aria-current", "true")
    assert sum(shares(read)) == pytest.approx(1.0, abs=0.01)
    page.keyboard.press("Escape")
    assert sum(shares(read)) == 0
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("table")).to_be_visible()
    rows = page.locator("table tbody tr")
    expect(rows).to_have_count(written.count())
    page.keyboard.press("Shift+Tab")
    expect(written.last).to_be_focused()


def test_each_line_is_a_translation_of_its_own(page: Page) -> None:
    """Shift and Enter begin another line; empty ones are left out; nothing at all is asked for."""
    page.get_by_label("Sentence in Chinese").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_text("Type a sentence first.")
    for key in ("猫", "Shift+Enter", "Shift+Enter", "狗"):
        page.keyboard.insert_text(key) if len(key) == 1 else page.keyboard.press(key)
    page.get_by_label("Search").select_option("greedy")
    page.get_by_role("button", name="Translate").click()
    expect(page.locator("article")).to_have_count(2)
    expect(page.get_by_role("alert")).to_have_text("")


def test_enter_of_an_input_method_is_left_alone(page: Page) -> None:
    """Who types Chinese confirms characters with Enter; that must not send the sentence."""
    field = page.get_by_label("Sentence in Chinese")
    field.fill("猫")
    field.dispatch_event("keydown", {"key": "Enter", "isComposing": True})
    page.wait_for_timeout(200)
    expect(page.get_by_role("status")).to_have_text("")
    field.dispatch_event("keydown", {"key": "Enter"})
    expect(page.locator("article")).to_have_count(1)


def test_markup_stays_text(page: Page) -> None:
    """Neither a sentence nor a server's answer becomes HTML, and the policy would let no script run."""
    attack = "<img src=x onerror=alert(1)><script>alert(2)</script>猫"
    translate(page, attack)
    expect(page.locator("article")).to_have_count(1)
    assert "<img" in "".join(words(page, "read").all_inner_texts())
    assert page.locator("article img, article script").count() == 0

    def answer(route: Route) -> None:
        hypothesis = {"translation": attack, "score": 0.0, "words": [attack], "attention": [[0.5, 0.5]]}
        source = {"text": attack, "words": [attack, "</s>"]}
        route.fulfill(json={"model": attack, "translations": [{"source": source, "hypotheses": [hypothesis]}]})

    page.route("**/translate", answer)
    translate(page, "猫")
    expect(page.locator(".translation")).to_have_text(attack)
    assert page.locator("article img, article script").count() == 0


def test_nothing_else_may_run_in_it(page: Page, complaints: list[str]) -> None:
    """A script that something smuggled in is refused by the policy, and so is asking elsewhere."""
    page.evaluate(
        "() => { const s = document.createElement('script'); s.textContent = 'ran = 1'; document.body.append(s); }"
    )
    assert page.evaluate("window.ran") is None
    assert page.evaluate("fetch('http://203.0.113.1/').then(() => 'sent', () => 'refused')") == "refused"
    assert complaints
    assert all("Content Security Policy" in complaint or "203.0.113.1" in complaint for complaint in complaints)
    complaints.clear()


def test_errors_are_told(page: Page, complaints: list[str]) -> None:
    """What the server refuses stands on the page in its words, and so does that it is gone."""
    page.evaluate("document.getElementById('source').maxLength = 99999")
    translate(page, "猫" * 1001)
    expect(page.get_by_role("alert")).to_contain_text("1,001 characters; at most 1,000")
    page.route("**/translate", lambda route: route.abort())
    translate(page, "猫")
    expect(page.get_by_role("alert")).to_contain_text("The server does not answer")
    assert len(complaints) == 2  # the browser's own lines about them
    complaints.clear()


def test_a_model_without_attention(browser: Browser, bundles: dict[str, Path], tmp_path: Path) -> None:
    """The translation alone, and why there is no more."""
    with serving(bundles["none"], tmp_path / "log") as server, browser.new_context() as context:
        page = context.new_page()
        page.goto(server.url)
        expect(page.get_by_label("Sentence in Chinese")).to_be_visible()
        translate(page, LINE)
        expect(page.locator("article")).to_contain_text("no attention to show")
        expect(page.locator(".words")).to_have_count(0)


CONTRAST = """all => all.map(one => {
    const paper = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
    const paint = (color) => { paper.fillStyle = color; paper.fillRect(0, 0, 1, 1); };
    const light = () => {
        const parts = [...paper.getImageData(0, 0, 1, 1).data].slice(0, 3).map(part => part / 255);
        const linear = parts.map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
    };
    const chain = [];
    for (let at = one; at; at = at.parentElement) chain.unshift(getComputedStyle(at).backgroundColor);
    chain.forEach(paint);
    const under = light();
    paint(getComputedStyle(one).color);
    const [low, high] = [under, light()].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
})"""
"""The contrast of each element's text against what is painted under it (WCAG 2.2, relative luminance)."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_readable_on_a_phone(browser: Browser, server: Server, scheme: str, complaints: list[str]) -> None:
    """Nothing is wider than the screen, a tap is enough, targets are large, and all text has a contrast of 4.5 to 1."""
    with browser.new_context(
        viewport={"width": 320, "height": 640}, has_touch=True, is_mobile=True, color_scheme=scheme
    ) as context:
        page = context.new_page()
        watch(page, complaints)
        page.goto(server.url)
        expect(page.get_by_label("Sentence in Chinese")).to_be_visible()
        translate(page, LINE * 3 + "Donaudampfschifffahrtsgesellschaftskapitän" * 2)
        written, read = words(page, "written"), words(page, "read")
        written.nth(2).tap()
        assert sum(shares(read)) == pytest.approx(1.0, abs=0.01)
        assert page.evaluate("document.documentElement.scrollWidth") <= 320
        assert all(
            box is not None and min(box["width"], box["height"]) >= 24
            for box in (one.bounding_box() for one in written.all())
        )
        read.first.evaluate("one => one.style.setProperty('--share', 1)")
        everything = page.locator(
            "h1, label, textarea, select, button, .hint, .translation, .caption, h2, h3, summary, footer"
        )
        assert min(everything.evaluate_all(CONTRAST)) >= 4.5
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == (
            "rgb(251, 250, 248)" if scheme == "light" else "rgb(22, 22, 22)"
        )
    assert complaints == []
