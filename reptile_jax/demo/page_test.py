"""Tests the page in a real browser: drawing with the pointer and keys, the answers, and a server that stops."""

import os
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from configs import images as own_images
from reptile_jax.data import DATA_SETS, glyphs, split
from reptile_jax.data.omniglot_archive import BACKGROUND, EVALUATION, read_archive
from reptile_jax.run import weights_file
from reptile_jax.run.programs import initial_state
from reptile_jax.testing import browser
from reptile_jax.testing.drawn import strokes

pytestmark = browser.needs_browser
ARCHIVES = os.environ.get("REPTILE_OMNIGLOT", "")
TASKS, EXAMPLES = 10, 1 if ARCHIVES else 2  # the weights have seen no glyphs
PADS, QUERY = "#rows li:nth-child({}) canvas.pad", "#queries canvas.pad"


@pytest.fixture(scope="module")
def driver():
    driver = browser.started()
    driver.set_script_timeout(60)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TFDS_DATA_DIR", str(tmp_path_factory.mktemp("nothing")))
        demo = browser.Demo("omniglot_5way", browser.free_port(), tmp_path_factory.mktemp("demo"))
    yield demo
    assert "Open http://127.0.0.1:" in demo.end()


@pytest.fixture
def page(driver, demo):
    """Opens the page anew."""
    driver.get(demo.address)
    until(driver, "return document.querySelectorAll('#rows li').length === 5")
    driver.execute_script("crypto.getRandomValues = (x) => x.fill(3); Math.random = () => 0.5")  # which characters
    yield driver
    assert not [x for x in driver.get_log("browser") if "Content Security Policy" in x["message"]]


def until(driver, script, seconds=60):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(driver, seconds, 0.05).until(lambda _: driver.execute_script(script))


def settled(driver):
    until(driver, "return !document.querySelector('[aria-busy]')")


def every(driver, selector):
    return driver.find_elements("css selector", selector)


def one(driver, selector):
    return driver.find_element("css selector", selector)


def shown(driver):
    """Returns the name that the page shows, and the probabilities in per cent, which the bars show unrounded."""
    settled(driver)
    columns = driver.execute_script("""
        return [...document.querySelectorAll(".bars tbody tr")].map((row) =>
          [...row.querySelectorAll(".fill")].map((bar) => parseFloat(bar.style.width)))""")
    for row, widths in zip(every(driver, ".bars tbody tr"), columns, strict=True):
        assert all(
            abs(float(cell.text.split()[0]) - width) < 0.51
            for cell, width in zip(every(row, "td"), widths, strict=True)
        )  # fmt: skip
    return one(driver, ".winner strong").text, np.array(columns)


def characters():
    """Returns test characters, from Omniglot if its archives are there: uint8 [characters, 20, 28, 28]."""
    if not ARCHIVES:
        images = DATA_SETS["glyphs"].load(None)
        chosen = split(images, glyphs.TRAIN_CHARACTERS, 0, 0)["test"]
        return images.pixels[images.first[chosen][:, None] + np.arange(glyphs.DRAWINGS)][..., 0]
    found = {}
    for archive in (BACKGROUND, EVALUATION):
        found |= read_archive(Path(ARCHIVES, archive.file_name), archive, "")
    described = DATA_SETS["omniglot"].describe(None)
    tested = np.array(described.names)[split(described, 1200, 0, 0)["test"]]
    return np.stack([found[name] for name in tested])


def focusable(node):
    """Returns whether a node of the accessibility tree can have the focus."""
    return not node["ignored"] and any(x["name"] == "focusable" and x["value"]["value"] for x in node["properties"])


def test_the_right_one_of_five_characters_that_a_hand_draws_wins(page):
    images, rng, won = characters(), np.random.default_rng(0), 0
    for task in range(TASKS):
        page.refresh()
        until(page, "return document.querySelectorAll('#rows li').length === 5")
        chosen = rng.choice(len(images), 5, replace=False)
        *examples, query = rng.choice(20, EXAMPLES + 1, replace=False)
        for row, character in enumerate(chosen):
            for example in examples:
                pad = every(page, PADS.format(row + 1))[-1]
                browser.draw(page, pad, strokes(images[character, example] == 0), ("mouse", "pen", "touch")[task % 3])
                settled(page)
        right = int(rng.integers(5))
        browser.draw(page, one(page, QUERY), strokes(images[chosen[right], query] == 0))
        until(page, "return document.querySelector('.winner') && !document.querySelector('[aria-busy]')")
        won += shown(page)[0] == "ABCDE"[right]
    print(f"{won} of {TASKS} right")
    assert won >= 8


def test_answers_follow_every_stroke_undo_and_clear(page):
    one(page, "#load").click()
    until(page, "return document.querySelector('.winner')")
    assert len(every(page, ".bars tbody tr")) == 5
    name, loaded = shown(page)
    assert name in tuple("ABCDE") and abs(loaded.sum() - 100) < 3
    pad = every(page, PADS.format(1))[1]  # the next empty pad
    browser.draw(page, pad, [[(0.2, 0.2), (0.8, 0.8), (0.2, 0.8)]])
    first = shown(page)[1]
    browser.draw(page, pad, [[(0.5, 0.1), (0.5, 0.9)]])
    second = shown(page)[1]
    assert len(every(page, PADS.format(1))) == 3
    every(page, "#rows li:nth-child(1) button[title=Undo]")[1].click()
    np.testing.assert_array_equal(shown(page)[1], first)
    every(page, "#rows li:nth-child(1) button[title=Clear]")[1].click()
    np.testing.assert_array_equal(shown(page)[1], loaded)
    assert (first != loaded).any() and (second != first).any() and len(every(page, PADS.format(1))) == 2
    one(page, "#rows li:nth-child(1) .name button").click()  # another example
    assert (shown(page)[1] != loaded).any() and len(every(page, PADS.format(1))) == 3
    field = one(page, "#rows li:nth-child(2) input")
    field.clear()
    field.send_keys("Ж")
    assert "Ж" in [x.text for x in every(page, ".bars tbody th")]
    before = shown(page)[1]
    inputs = every(page, ".steps input")
    assert [x.text for x in every(page, ".steps label")] == ["0", "1", "5", "20", "50"]
    assert one(page, ".steps :checked") == inputs[-1]
    page.execute_script("arguments[0].click()", inputs[0])
    assert (shown(page)[1] != before).any()
    assert "is most likely" in one(page, "#said").get_attribute("textContent")


def test_a_dot_is_ink_and_keys_wait_for_the_pointer(page):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    pad = one(page, PADS.format(1))
    browser.draw(page, pad, [[(0.3, 0.6)]])
    settled(page)
    dotted = page.execute_script("""
        const {width, height} = arguments[0];
        const pixels = arguments[0].getContext("2d").getImageData(0, 0, width, height).data;
        return Array.from(pixels).filter((_, i) => i % 4 === 3).reduce((sum, x) => sum + x / 255) / width / height""",
        pad,
    )  # fmt: skip
    assert 0.5 < dotted / (np.pi * 0.0275**2) < 2 and not one(page, ".problem").text
    held = ActionChains(page, duration=0).move_to_element(pad).click_and_hold().move_by_offset(20, 0)
    held.send_keys(Keys.DELETE, Keys.BACKSPACE).move_by_offset(0, 20).release().perform()
    settled(page)
    every(page, "#rows li:nth-child(1) button[title=Undo]")[0].click()  # the line, so that the dot is left
    settled(page)
    assert len(every(page, PADS.format(1))) == 2  # the pad, and an empty one
    assert not [x for x in page.get_log("browser") if x["level"] == "SEVERE" and "TypeError" in x["message"]]


def test_queries_to_load_end_with_the_places_and_with_the_characters(page):
    one(page, "#load").click()
    until(page, "return document.querySelector('.winner')")
    for count in range(2, 9):
        one(page, "#load-query").click()
        until(page, f"return document.querySelectorAll('#queries .caption:not(:empty)').length === {count}")
    assert not one(page, "#load-query").is_enabled() and not one(page, "#another").is_enabled()
    every(page, "#queries button[title=Clear]")[3].click()
    assert one(page, "#load-query").is_enabled()
    one(page, "#over").click()  # nothing was drawn, so it does not ask
    assert not one(page, "#load-query").is_displayed() and not one(page, "#rows input").get_attribute("title")


def test_several_queries_have_both_protocols(page):
    one(page, "#load").click()
    until(page, "return document.querySelector('.winner')")
    alone = shown(page)[1]
    one(page, "#load-query").click()
    until(page, "return document.querySelectorAll('#queries .caption:not(:empty)').length === 2")
    assert [x.text for x in every(page, ".bars thead th")] == ["character", "alone", "together"]
    both = shown(page)[1]
    assert alone.shape == (5, 1) and both.shape == (5, 2) and (both[:, 0] != both[:, 1]).any()
    page.execute_script("arguments[0].focus()", every(page, QUERY)[0])
    np.testing.assert_array_equal(shown(page)[1][:, :1], alone)


def test_it_is_drawn_on_by_keys(page):
    from selenium.webdriver.common.keys import Keys

    def typed(pad, *keys):
        page.execute_script("arguments[0].focus()", pad)
        pad.send_keys(*keys)
        settled(page)

    def said():
        return one(page, "#said").get_attribute("textContent")

    line = [Keys.SPACE, *9 * [Keys.ARROW_RIGHT], Keys.SPACE]
    typed(one(page, PADS.format(1)), Keys.SPACE, Keys.ARROW_DOWN)
    assert said() == "Pen down"
    typed(one(page, PADS.format(1)), *8 * [Keys.ARROW_DOWN], Keys.SPACE)
    typed(one(page, PADS.format(2)), *line)
    typed(one(page, QUERY), *line, *line)
    assert shown(page)[0] == "B" and "Query 1 is most likely B" in said()
    typed(one(page, QUERY), Keys.BACKSPACE, Keys.DELETE)
    assert not one(page, "#answer").is_displayed()
    # What a screen reader is told: Chromium's own accessibility tree, without the page itself.
    nodes = page.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    reached = [node for node in nodes if focusable(node) and node["role"]["value"] != "RootWebArea"]
    names = [node["name"]["value"] for node in reached]
    assert all(name.strip() for name in names) and {"Name of character 1", "Start over"} <= set(names)
    pads = [name for node, name in zip(reached, names, strict=True) if node["role"]["value"] == "application"]
    assert {"Example 1 of A", "Example 1 of E", "Query 1"} <= set(pads)


def test_a_phone_and_no_foreign_host(page, demo):
    one(page, "#load").click()
    until(page, "return document.querySelector('.winner')")
    try:
        for width in (320, 375, 800):
            size = {"width": width, "height": 700, "deviceScaleFactor": 2, "mobile": True}
            page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            assert page.execute_script("return document.documentElement.scrollWidth") == width
            page.execute_script("scrollTo(0, 0)")
            one(page, "#load").click()
            until(page, "return document.getElementById('ask').getBoundingClientRect().top < innerHeight")
            small = page.execute_script("""
                return [...document.querySelectorAll("button, canvas.pad")].filter((x) => x.checkVisibility() &&
                  Math.min(x.offsetWidth, x.offsetHeight) < 24).length""")
            assert small == 0
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    asked = page.execute_script("return performance.getEntriesByType('resource').map((x) => x.name)")
    assert len(asked) > 5 and all(address.startswith(demo.address) for address in asked)


def test_a_server_that_goes_away_is_said_and_comes_back(driver, tmp_path):
    port = browser.free_port()
    demo = browser.Demo("omniglot_5way", port, tmp_path)
    driver.get(demo.address)
    until(driver, "return document.querySelectorAll('#rows li').length === 5")
    for row, line in enumerate(([(0.5, 0.1), (0.5, 0.9)], [(0.1, 0.5), (0.9, 0.5)])):
        browser.draw(driver, one(driver, PADS.format(row + 1)), [line])
    settled(driver)
    assert not one(driver, "#gone").is_displayed()
    demo.end()
    browser.draw(driver, one(driver, QUERY), [[(0.2, 0.45), (0.9, 0.5)]])
    until(driver, "return !document.getElementById('gone').hidden")
    assert "The server has gone away" in one(driver, "#gone").text
    demo = browser.Demo("omniglot_5way", port, tmp_path)
    until(driver, "return document.getElementById('gone').hidden && document.querySelector('.winner')")
    assert shown(driver)[0] == "B"  # the page asks about what was drawn in the meantime, and nothing is lost
    demo.end()


def test_weights_for_photographs_take_files_and_drops(driver, tmp_path):
    config = own_images.get_config()
    config.update(classes=3, eval_iters=10, learning_rate=0.01)
    config.data.update(size=20)
    config.model.filters = 8
    weights_file.save(tmp_path / "photographs.safetensors", jax.device_get(initial_state(config, 0)), config, "f")
    demo = browser.Demo(tmp_path / "photographs.safetensors", browser.free_port(), tmp_path)
    colours = {"red": (200, 30, 20), "green": (20, 160, 40), "blue": (30, 40, 200)}
    rng = np.random.default_rng(0)
    for name, colour in colours.items():
        for number in range(3):
            noise = rng.normal(0, 30, (40, 50, 3)) + colour
            Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(tmp_path / f"{name}{number}.jpg")
    driver.get(demo.address)
    until(driver, "return document.querySelectorAll('#rows li').length === 3")
    for row, name in enumerate(colours):
        files = "\n".join(str(tmp_path / f"{name}{number}.jpg") for number in range(2))
        one(driver, f"#rows li:nth-child({row + 1}) input[type=file]").send_keys(files)
    settled(driver)
    assert len(every(driver, "#rows canvas.photograph:not([hidden])")) == 6
    dropped = list((tmp_path / "green2.jpg").read_bytes())
    driver.execute_script(
        """
        const dropped = new DataTransfer();
        dropped.items.add(new File([new Uint8Array(arguments[1])], "x.jpg", {type: "image/jpeg"}));
        arguments[0].dispatchEvent(new DragEvent("drop", {dataTransfer: dropped, bubbles: true, cancelable: true}));
        """,
        one(driver, "#queries label.pad"), dropped,
    )  # fmt: skip
    until(driver, "return document.querySelector('.winner')")
    assert shown(driver)[0] == "B"
    (tmp_path / "no.png").write_bytes(b"no image")
    one(driver, "#rows li:nth-child(1) .tile:last-child input[type=file]").send_keys(str(tmp_path / "no.png"))
    until(driver, "return document.querySelector('.problem:not(:empty)')")
    assert "not a PNG, JPEG, WebP, BMP or GIF image" in one(driver, ".problem:not(:empty)").text
    assert shown(driver)[0] == "B"
    demo.end()


def test_a_bad_request_leaves_the_page_as_it_was(page):
    one(page, "#load").click()
    until(page, "return document.querySelector('.winner')")
    before = shown(page)[1]
    status, answer = page.execute_async_script(
        """
        const done = arguments[0];
        fetch("api/answer", {method: "POST", headers: {"Content-Type": "application/json"}, body: "{}"})
          .then(async (answer) => done([answer.status, await answer.json()]));
        """
    )
    assert status == 400 and "send page, support and queries" in answer["error"]
    browser.draw(page, one(page, PADS.format(1)), [[(0.1, 0.1), (0.9, 0.9)]])
    assert (shown(page)[1] != before).any()
