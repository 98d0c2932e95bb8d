# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""The page in a real browser, served by real processes: every tab, at the width of a desk and of a telephone."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_pipelines
from diffusers import DDPMScheduler
from PIL import Image
from tiny_models import tiny_unet
from tiny_pages import digits_pipeline, write_digit

from ddpm_hf import (
    DDPMPaperLatentPipeline,
    DDPMPaperPipeline,
    DDPMPaperScheduler,
    DDPMPaperSuperResolutionPipeline,
    decompress,
)
from ddpm_hf.app.model import PageModel


pytest.importorskip("gradio", reason="the page needs the extra app")
playwright = pytest.importorskip("playwright.sync_api", reason="the page is tested with playwright")

ROOT = Path(__file__).resolve().parents[2]
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
in_a_browser = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium is installed (on Debian: apt-get install chromium)"
)

pytestmark = pytest.mark.slow

PATIENCE = 180.0  # seconds, for anything that should have come long before
DESK, TELEPHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a picture, and a damaged file."""
    folder = tmp_path_factory.mktemp("page")
    digits_pipeline().save_pretrained(folder / "model")
    write_digit(folder / "digit.png")
    (folder / "damaged.ddpc").write_bytes(b"DDPC\x01 and then something else")
    return folder


@contextlib.contextmanager
def served(*command: object, folder: Path) -> Iterator[str]:
    """The address of a page that a process serves, which is interrupted in the end, as a user does it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": str(folder / "gradio"), "OMP_NUM_THREADS": "1"}
    settings |= {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])}
    arguments = [sys.executable, *map(str, command), "--server_port", str(port)]
    with (folder / f"{port}.txt").open("w+") as output:
        process = subprocess.Popen(
            arguments,
            cwd=folder,
            env=os.environ | settings,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=heed_interrupts,
        )
        try:
            end = time.monotonic() + PATIENCE
            while not answers(f"http://127.0.0.1:{port}"):
                assert process.poll() is None and time.monotonic() < end, Path(output.name).read_text()
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) == 0
            assert "Traceback" not in Path(output.name).read_text()
        finally:
            process.kill()
            process.wait()


def heed_interrupts() -> None:
    """A shell's background jobs ignore Ctrl-C, and so do their children unless they are told otherwise."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5):
            return True
    except OSError:
        return False


@dataclass
class Visit:
    """A page in a browser, and what went wrong in it."""

    page: Any
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(PATIENCE * 1000)
        self.page.on("console", lambda message: message.type == "error" and self.wrong.append(message.text))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", lambda request: self.ask(request.url))

    def ask(self, address: str) -> None:
        if not address.startswith(("http://127.0.0.1:", "ws://127.0.0.1:", "data:", "blob:")):
            self.wrong.append(f"asked {address}")

    def open(self, name: str) -> None:
        self.page.get_by_role("tab", name=name).click()
        self.page.locator(f"#{name.lower()}-button").wait_for()

    def upload(self, path: Path, within: str = "") -> None:
        box = self.page.locator(f"{within} input[type=file]")
        (box.first if within else self.page.locator("[role=tabpanel]:visible input[type=file]").first).set_input_files(
            path
        )

    def picture(self, where: str) -> np.ndarray:
        """The pixels of the picture there, once it has loaded."""
        image = self.page.locator(f"{where} img").first
        image.wait_for()
        content = self.page.request.get(image.get_attribute("src")).body()
        return np.asarray(Image.open(io.BytesIO(content)).convert("L"))

    def fits(self) -> bool:
        """Whether nothing has to be scrolled to the side."""
        return self.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@in_a_browser
def test_a_visit(folder: Path, browser: Any) -> None:
    digit = np.asarray(Image.open(folder / "digit.png"))
    with served("-m", "ddpm_hf", "app", "--model", folder / "model", folder=folder) as address:
        visit = Visit(browser.new_page(viewport=DESK))
        page = visit.page
        page.goto(address)

        page.locator("#sample-button").click()
        assert visit.picture("#pictures").shape == (192, 192)
        film = Image.open(io.BytesIO(page.request.get(page.locator("#animation img").get_attribute("src")).body()))
        assert film.format == "GIF" and film.n_frames == 25

        visit.open("Score")
        page.locator("#score-button").click()
        page.get_by_text("Upload a picture first.").wait_for()
        visit.upload(folder / "digit.png")
        page.locator("[role=tabpanel]:visible [data-testid=image] img").first.wait_for()
        page.locator("#score-button").click()
        page.locator("#bits img").wait_for()
        assert "bits/dim" in page.locator("#score h3").inner_text()
        assert page.locator("#score").inner_text().count("116 bytes") == 1

        visit.open("Compress")
        visit.upload(folder / "digit.png")
        page.locator("[role=tabpanel]:visible [data-testid=image] img").first.wait_for()
        page.locator("#compress-button").click()
        page.get_by_text("pixel for pixel").first.wait_for()
        whole = visit.picture("#decoded")
        assert np.array_equal(whole[::32, ::32], digit)
        slider = page.locator("#bytes input[type=range]")
        least, most = (int(slider.get_attribute(name)) for name in ("min", "max"))
        slider.fill(str((least + most) // 2))
        page.get_by_text(f"The first {(least + most) // 2} of {most} bytes").wait_for()
        assert not np.array_equal(visit.picture("#decoded"), whole)

        with page.expect_download() as download:
            page.locator("#download").click()
        file = folder / download.value.suggested_filename
        download.value.save_as(file)
        assert file.name == "picture.ddpc" and file.stat().st_size == most
        by_hand = decompress(file, folder / "model")
        assert by_hand.is_exact and np.array_equal(np.asarray(by_hand.pictures["0.png"]), digit)
        visit.upload(file, "#file")
        page.get_by_text("1 picture, as compressed, pixel for pixel.").wait_for()
        assert np.array_equal(visit.picture("#back")[::32, ::32], digit)

        page.locator("#file button[aria-label=Clear]").click()
        page.locator("#back").wait_for(state="hidden")
        visit.upload(folder / "damaged.ddpc", "#file")
        page.get_by_text("The file is damaged: it ends within its header.").wait_for()
        assert page.locator("#back").is_hidden() and visit.fits() and visit.wrong == []
        page.close()


@in_a_browser
def test_on_a_telephone(folder: Path, browser: Any) -> None:
    with served(ROOT / "examples" / "app.py", "--model", folder / "model", folder=folder) as address:
        visit = Visit(browser.new_page(viewport=TELEPHONE))
        page = visit.page
        page.goto(address)
        page.locator("#sample-button").click()
        page.locator("#animation img").wait_for()
        assert visit.fits()
        for tab, result in (("Score", "#bits img"), ("Compress", "#decoded img")):
            visit.open(tab)
            page.locator(
                "[role=tabpanel]:visible .gallery-item, [role=tabpanel]:visible .gallery button"
            ).first.click()
            page.locator("[role=tabpanel]:visible [data-testid=image] img").first.wait_for()
            page.locator(f"#{tab.lower()}-button").click()
            page.locator(result).wait_for()
            assert visit.fits()
        assert visit.wrong == []
        page.close()


def texts_of(model: PageModel) -> str:
    """All that the page of a model says."""
    from ddpm_hf.app.page import build_page

    components = build_page(model).get_config_file()["components"]
    return "\n".join(str(each["props"].get("value", "")) for each in components if each["type"] == "markdown")


def test_pages_of_models_that_cannot_do_everything() -> None:
    plain = texts_of(PageModel("m", DDPMPaperPipeline(tiny_unet(), DDPMPaperScheduler())))
    assert "Pictures cannot be compressed here. Progressive coding needs" in plain and "cannot be scored" not in plain
    dit = tiny_pipelines.diffusion_transformer(DDPMScheduler(variance_type="learned_range"), num_classes=3)
    latent = texts_of(PageModel("m", DDPMPaperLatentPipeline.from_stock(dit)))
    assert "Pictures cannot be scored here. The autoencoder has no p(x | z)" in latent
    assert "Pictures cannot be compressed here. Only a UNet2DModel can compress" in latent
    stock = tiny_pipelines.deepfloyd_super_resolution(DDPMScheduler(variance_type="learned_range"))
    names = ("tokenizer", "text_encoder", "unet", "scheduler", "image_noising_scheduler")
    enlarging = DDPMPaperSuperResolutionPipeline(*(getattr(stock, name) for name in names))
    assert "This model enlarges pictures" in texts_of(PageModel("m", enlarging))
