"""Starts Chromium without a window, and draws in it."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from reptile_jax.testing.small_runs import MAIN

CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
needs_browser = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="there is no Chromium: install Debian's chromium and chromium-driver"
)


def started(width=1280, height=900):
    """Starts a browser that can reach no other host."""
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = CHROMIUM
    nowhere = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    alone = ("--no-first-run", "--disable-background-networking", nowhere)
    sandbox = ("--no-sandbox",) if os.geteuid() == 0 else ()  # root has none in Chromium
    for word in ("--headless=new", f"--window-size={width},{height}", "--disable-dev-shm-usage", *alone, *sandbox):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return Chrome(options=options, service=Service(DRIVER))


def draw(driver, pad, strokes, kind="mouse"):
    """Draws strokes, lists of points (x, y) that are shares of the pad, by pointer events."""
    from selenium.webdriver.common.action_chains import ActionBuilder
    from selenium.webdriver.common.actions.pointer_input import PointerInput

    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", pad)
    width, height = (pad.size[name] for name in ("width", "height"))
    actions = ActionBuilder(driver, mouse=PointerInput(kind, kind), duration=0)
    for stroke in strokes:
        for i, (x, y) in enumerate(stroke):
            actions.pointer_action.move_to(pad, round((x - 0.5) * width), round((y - 0.5) * height))
            if i == 0:
                actions.pointer_action.pointer_down()
        actions.pointer_action.pointer_up()
    actions.perform()


def free_port():
    """Returns a port on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


class Demo:
    """The demo as a person starts it, in a separate process."""

    def __init__(self, pretrained, port, cwd):
        self.address = f"http://127.0.0.1:{port}"
        words = ("--mode=demo", f"--pretrained={pretrained}", f"--port={port}")
        self.process = subprocess.Popen(
            [sys.executable, str(MAIN), *words], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        while True:
            try:
                urllib.request.urlopen(f"{self.address}/api/about").close()
                return
            except urllib.error.URLError:
                if self.process.poll() is not None:
                    raise AssertionError(self.process.stdout.read()) from None
                time.sleep(0.1)

    def end(self):
        """Ends the demo, and returns what it printed."""
        self.process.terminate()
        return self.process.communicate(timeout=60)[0]
