#!/usr/bin/env python3
"""Pictures of a report page in headless Chromium: light and dark, desktop and phone, and the printed page.

  tools/report_screenshots.py out.html FOLDER [--chromium /usr/bin/chromium]

Fails when the page asks for anything over the network, logs an error, or is wider than the window. Needs playwright
(Python) and a Chromium.
"""
import argparse
import pathlib

from playwright.sync_api import sync_playwright


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("page", type=pathlib.Path)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    address = arguments.page.resolve().as_uri()
    problems = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=arguments.chromium, args=["--no-sandbox"])
        for scheme in ["light", "dark"]:
            for name, width in [("desktop", 1280), ("phone", 390)]:
                page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
                page.on("request", lambda r: problems.append(r.url) if r.url != address else None)
                page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
                page.goto(address)
                found = page.evaluate("document.documentElement.scrollWidth")
                if found > width:
                    problems.append(f"{scheme} {name}: the page is {found} pixels wide, the window {width}")
                page.screenshot(path=arguments.folder / f"{scheme}-{name}.png", full_page=True)
                if name == "desktop":  # who reads in dark prints on white, too
                    page.pdf(path=arguments.folder / f"print-{scheme}.pdf", prefer_css_page_size=True)
                page.close()
        browser.close()
    for problem in problems:
        print(problem)
    raise SystemExit(bool(problems))


if __name__ == "__main__":
    main()
