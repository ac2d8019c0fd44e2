"""The page in a real Chromium: what a reader sees, points at, searches, and reaches by keyboard or screen reader."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from nmt import files, paths
from tests.page_project import CROSSED, EVIL, NULL, PAIRS

PATIENCE = 120_000  # milliseconds; a busy machine is no fault of the page
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CONTRAST_AND_MORE = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}


pytestmark = pytest.mark.xdist_group("browser")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium of the machine's own; Playwright brings none."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip("needs Chromium")
    with sync_playwright() as playwright:
        expect.set_options(timeout=PATIENCE)
        chromium = playwright.chromium.launch(executable_path=program, args=["--disable-gpu"], timeout=PATIENCE)
        yield chromium
        chromium.close()


@pytest.fixture
def address(page_folder: Path) -> str:
    """The page, opened from disk."""
    return (page_folder / paths.PAGE).resolve().as_uri()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """The page in a window of its own; at the end nothing may have been complained about or asked for."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    context.set_default_timeout(PATIENCE)
    opened = context.new_page()
    faults: list[str] = []
    opened.on("console", lambda message: faults.append(f"console: {message.text}"))
    opened.on("pageerror", lambda error: faults.append(f"error: {error}"))
    opened.on("dialog", lambda dialog: faults.append(f"dialog: {dialog.message}"))
    opened.on("request", lambda request: request.url.startswith(("file:", "data:")) or faults.append(request.url))
    opened.goto(address)
    yield opened
    context.close()
    assert faults == []


def listed(page: Page) -> list[str]:
    """The sources in the list, from the top."""
    return page.get_by_role("list", name="Sentences").locator(".text").all_text_contents()


def source(row: int) -> str:
    """A source as it was written."""
    return "".join(PAIRS[row][0])


def target(page: Page, model: str, word: str) -> "Page.locator":
    """A word of a model's translation."""
    return page.get_by_role("toolbar", name=model).get_by_role("button", name=word, exact=True)


def looks(page: Page) -> list[str]:
    """The shares that the source words have now, the end included."""
    return page.get_by_role("list", name="Source words").locator(".look").all_text_contents()


def test_it_opens_from_disk_with_all_that_there_is(page: Page) -> None:
    """Tables and charts are there, the first sentence is open, and the page's policy allowed its style and script."""
    expect(page).to_have_title("What attention looks at: plain and attention, Chinese to English")
    expect(page.get_by_role("table", name="Scores on the test set")).to_be_visible()
    assert page.locator(".chart svg").count() == 5
    assert page.locator("svg .series-1 path").first.evaluate("e => getComputedStyle(e).stroke") == "rgb(176, 69, 12)"
    expect(page.get_by_role("heading", name="Sentence 1 of 60")).to_be_visible()
    assert listed(page) == [source(row) for row in range(40)]


def test_search_looks_at_source_reference_and_translations(page: Page) -> None:
    """Whatever the case and width of its letters; the number found is told; nothing found is no error."""
    box, found = page.get_by_role("searchbox", name="Search"), page.locator("#found")
    for text, rows in {"猫": [1], "LIKE ＣＡＴＳ": [1], "i like dogs": [1], "你的鞋": [0], "4-504": [4]}.items():
        box.fill(text)
        assert listed(page) == [source(row) for row in rows], text
        expect(found).to_have_text("1 of 60 sentences")
    box.fill("no such text")
    expect(found).to_have_text("0 of 60 sentences")
    assert listed(page) == []
    box.fill("")
    expect(found).to_have_text("60 sentences")


def test_more_sentences_come_when_asked_for(page: Page) -> None:
    """The focus goes on to the first of them, and the button leaves when there are no more."""
    more = page.get_by_role("button", name="Show more")
    more.click()
    assert listed(page) == [source(row) for row in range(60)]
    expect(page.get_by_role("list", name="Sentences").get_by_role("link").nth(40)).to_be_focused()
    expect(more).to_be_hidden()


@pytest.mark.parametrize(
    ("label", "key"), [("chrF, attention", "chrf"), ("entropy of its attention weights, attention", "entropy")]
)
def test_sorting_follows_the_numbers(page: Page, page_folder: Path, label: str, key: str) -> None:
    """Smallest first, or largest first."""
    words = files.read_json_lines(page_folder / paths.attention_report("attention", 1) / "words.jsonl")
    rows = sorted(range(60), key=lambda row: words[row][key])
    page.get_by_role("combobox", name="Sort by").select_option(label)
    assert listed(page) == [source(row) for row in rows[:40]]
    page.get_by_role("button", name="Largest first").click()
    assert listed(page) == [source(row) for row in rows[::-1][:40]]


def test_sorting_by_length_and_by_lead(page: Page) -> None:
    """The longest source leads; what both models have in common is nobody's lead."""
    sort = page.get_by_role("combobox", name="Sort by")
    page.get_by_role("button", name="Largest first").click()
    sort.select_option("Length in characters")
    assert listed(page)[:2] == [source(2), source(4)]
    sort.select_option("lead in chrF, attention over plain")
    assert len(listed(page)) == 40


def test_what_is_worth_reading_can_come_first(page: Page) -> None:
    """Sentences in which attention and translation both fail; a model that has none of them offers no such order."""
    sort = page.get_by_role("combobox", name="Sort by")
    assert [label for label in sort.get_by_role("option").all_text_contents() if "both fail" in label] == [
        "first where attention and translation both fail, attention"
    ]
    sort.select_option("first where attention and translation both fail, attention")
    assert listed(page)[:2] == [source(9), source(0)]


def test_a_word_under_the_pointer_shows_what_it_looked_at(page: Page) -> None:
    """Shares as numbers and strength of colour, what erasing costs, the row of each heatmap; then all is quiet."""
    assert looks(page) == [""] * 8
    target(page, "attention", "are").hover()
    assert looks(page) == ["3%", "80%", "3%", "3%", "3%", "3%", "3%", "3%"]
    words = page.get_by_role("list", name="Source words").get_by_role("listitem")
    strengths = [float(item.evaluate("e => e.style.getPropertyValue('--weight')")) for item in words.all()]
    assert strengths[1] == pytest.approx(0.8, abs=0.002)
    assert max(strengths[2:]) < 0.05
    colours = [item.evaluate("e => getComputedStyle(e).backgroundColor") for item in words.all()]
    assert colours[1] != colours[2] == colours[3]
    needs = page.get_by_role("list", name="Source words").locator(".need").all_text_contents()
    assert needs == ["−0.3", "+3.0", "−0.3", "−0.3", "−0.3", "−0.3", "−0.3", ""]
    expect(page.locator("#readout")).to_have_text("attention, “are”: looked at 的 80%; needed 的 most (+3.0 nats).")
    assert page.locator("tr.pointed th").all_text_contents() == ["are"] * 3
    page.mouse.move(1, 1)
    assert looks(page) == [""] * 8


def test_a_model_without_attention_shows_what_it_needed(page: Page) -> None:
    """Erasure can be asked of every model."""
    target(page, "plain", "Where").hover()
    assert looks(page) == [""] * 8
    expect(page.locator("#readout")).to_have_text("plain, “Where”: needed 你 most (+3.0 nats).")


def test_nothing_moves_when_numbers_come(page: Page) -> None:
    """A word that jumped away from under the pointer could not be read."""
    word = target(page, "attention", "shoes?")
    word.scroll_into_view_if_needed()
    before = word.bounding_box()
    word.hover()
    assert looks(page)[3] == "80%"
    assert word.bounding_box() == before


def test_words_can_be_reached_and_held_by_keyboard(page: Page) -> None:
    """A translation is one stop of Tab; arrows walk, Enter holds, Escape lets go; the focus can be seen."""
    target(page, "plain", "Where").focus()
    page.keyboard.press("Tab")
    first = target(page, "attention", "Where")
    expect(first).to_be_focused()
    assert looks(page)[0] == "80%"
    assert first.evaluate("e => getComputedStyle(e).outlineStyle") == "solid"
    page.keyboard.press("ArrowRight")
    expect(target(page, "attention", "are")).to_be_focused()
    assert looks(page)[1] == "80%"
    page.keyboard.press("End")
    expect(target(page, "attention", "shoes?")).to_be_focused()
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    expect(first).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Tab")
    assert looks(page)[0] == "80%", "held after the focus has left"
    page.keyboard.press("Shift+Tab")
    expect(first).to_be_focused()
    page.keyboard.press("Escape")
    expect(first).to_have_attribute("aria-pressed", "false")
    target(page, "plain", "Where").focus()
    assert looks(page) == [""] * 8


def test_the_list_is_walked_and_opened_by_keyboard(page: Page) -> None:
    """Reading goes on at the sentence that was opened, and the list says which that is."""
    links = page.get_by_role("list", name="Sentences").get_by_role("link")
    links.first.focus()
    page.keyboard.press("ArrowDown")
    expect(links.nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Sentence 2 of 60")).to_be_focused()
    expect(links.nth(1)).to_have_attribute("aria-current", "true")
    assert page.locator("[aria-current]").count() == 1
    page.get_by_role("link", name="Next").press("Enter")
    expect(page.get_by_role("heading", name="Sentence 3 of 60")).to_be_focused()


def test_html_in_a_sentence_is_text(page: Page) -> None:
    """In the list, as source, reference, translation, word and column: it is shown, and it does nothing."""
    page.get_by_role("searchbox").fill("<img")
    page.get_by_role("link", name=EVIL).click()
    expect(page.get_by_role("heading", name="Sentence 3 of 60")).to_be_visible()
    for part in ("dl", ".translation.series-0", ".translation.series-1", "#source-words", ".map thead"):
        expect(page.locator(f"#sentence {part}").first).to_contain_text(EVIL)
    assert page.locator("img, #sentence script, #list script").count() == 0
    expect(page).to_have_title(re.compile("^What attention looks at"))


def test_the_picture_at_the_top_leads_to_its_sentence(page: Page) -> None:
    """It has a text for those who do not see it."""
    expect(page.get_by_role("img", name="What attention looked at")).to_be_visible()
    page.get_by_role("link", name="one of the test sentences").click()
    expect(page.get_by_role("heading", name=f"Sentence {CROSSED + 1} of 60")).to_be_in_viewport()


def test_an_address_leads_to_its_sentence(page: Page, address: str) -> None:
    """At the start, while the page is open, and on the way back; an address of nothing changes nothing."""
    page.goto(f"{address}#s-4-504")
    expect(page.get_by_role("heading", name="Sentence 5 of 60")).to_be_in_viewport()
    page.get_by_role("link", name=source(1)).click()
    expect(page.get_by_role("heading", name="Sentence 2 of 60")).to_be_visible()
    assert page.url.endswith("#s-1-501")
    page.go_back()
    expect(page.get_by_role("heading", name="Sentence 5 of 60")).to_be_visible()
    page.goto(f"{address}#s-%E0%A4%A")
    expect(page.get_by_role("heading", name="Sentence 5 of 60")).to_be_visible()


def test_what_a_model_lacks_is_not_there(page: Page, address: str) -> None:
    """An empty translation is told; without matrices there are no words to point at and no heatmaps."""
    page.goto(f"{address}#s-{NULL}-{NULL + 500}")
    expect(page.locator(".translation.series-0")).to_contain_text("(nothing)")
    assert page.locator(".translation.series-0 button").count() == 0
    assert page.locator(".maps.series-0").count() == 0
    assert page.locator(".maps.series-1 table").count() == 3


@pytest.mark.parametrize("row", [0, 2, 4])
def test_a_phone_shows_all_without_scrolling_sideways(page: Page, address: str, row: int) -> None:
    """At 360 pixels; what is wider (a heatmap of 60 words) scrolls in a frame that the keyboard reaches."""
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto(f"{address}#s-{row}-{row + 500}")
    for summary in page.locator("summary").all():
        summary.click()
    wide = "[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll, .unseen, .skip, svg, #list') && "
    wide += "e.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.outerHTML.slice(0, 80))"
    assert page.evaluate(wide) == []
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    if row == 4:
        frame = page.get_by_role("region", name="attention, word by word Attention")
        assert frame.evaluate("e => e.scrollWidth > e.clientWidth")
        frame.focus()
        expect(frame).to_be_focused()


def test_a_tap_holds_a_word(browser: Browser, address: str) -> None:
    """Where there is no pointer to hover with."""
    context = browser.new_context(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto(address)
    target(page, "attention", "are").tap()
    assert looks(page)[1] == "80%"
    context.close()


def test_dark_mode_is_dark(page: Page) -> None:
    """Ink and paper change places, charts included."""

    def brightness(selector: str, what: str) -> float:
        colour = page.locator(selector).first.evaluate(f"e => getComputedStyle(e).{what}")
        return sum(map(int, re.findall(r"\d+", colour)[:3])) / 765

    parts = [("html", "backgroundColor"), (".reader", "backgroundColor"), ("h1", "color"), (".chart text", "fill")]
    light = [brightness(*part) for part in parts]
    page.emulate_media(color_scheme="dark")
    dark = [brightness(*part) for part in parts]
    assert light[0] > 0.9
    assert light[1] > 0.9
    assert light[2] < 0.2
    assert light[3] < 0.5
    assert dark[0] < 0.15
    assert dark[1] < 0.15
    assert dark[2] > 0.8
    assert dark[3] > 0.6


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 360)])
def test_axe_finds_no_fault(page: Page, scheme: str, width: int) -> None:
    """Names, roles, order, contrast (AA), while a word is held and all tables are open."""
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    page.set_viewport_size({"width": width, "height": 900})
    for summary in page.locator("summary").all():
        summary.click()
    target(page, "attention", "are").click()
    found = Axe().run(page, options=CONTRAST_AND_MORE)
    assert found.violations_count == 0, found.generate_report()


def test_a_screen_reader_hears_names_and_languages(page: Page) -> None:
    """Landmarks, the open sentence with its words, a heatmap's cells, and in which language each text is."""
    expect(page.get_by_role("article")).to_match_aria_snapshot("""
        - article "Sentence 1 of 60":
          - heading "Sentence 1 of 60" [level=3]
          - navigation "Neighbouring sentences"
          - term: Source
          - definition: /你的鞋脱哪儿了？/
          - term: References
          - definition
          - definition
          - region "Which source words a word looked at":
            - list "Source words, as the models read them"
            - heading /plain/ [level=4]
            - toolbar /plain/
            - heading /attention/ [level=4]
            - toolbar /attention/:
              - button "Where"
              - button "are"
              - button "your"
              - button "shoes?"
            - status
    """)
    cell = page.get_by_role("region", name="attention, word by word Attention").get_by_role("row", name="Where 80 3")
    expect(cell.get_by_role("rowheader")).to_have_text("Where")
    assert page.locator("#source-words .word:lang(zh)").count() == 7
    assert page.locator(".line:lang(en)").count() == 2
    assert page.locator("#list .text:lang(zh)").count() == 40
    assert page.locator("dd:lang(zh)").count() == 1


def test_chinese_is_drawn_as_chinese(page: Page) -> None:
    """Without a font for it, different characters would look alike."""
    fonts = subprocess.run(["fc-list", ":lang=zh"], capture_output=True, check=False).stdout
    if not fonts:
        pytest.skip("needs a Chinese font")
    words = page.locator("#source-words .word")
    assert words.nth(2).screenshot() != words.nth(3).screenshot()
