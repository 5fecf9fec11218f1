"""The flash sale of docs/examples in a headless Chromium, as three visitors see it who come one after the other: one who gets a
ticket, one who is in the line and gets none, one who is sent away. Each comes back, too, and one has no JavaScript. The sale must have
one ticket and a gate of two. Prints a line a check as the scripts of tests/clients do; ends with 0 if all are well, 1 if one failed, 77 if
there is no Chromium.

Usage: python flash_sale.py BASE_URL WORKER_PROCESS [--screenshots DIR]

WORKER_PROCESS: its process id; it is held for a moment, so that a visitor is seen to wait.
"""

import argparse
import os
import signal
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "clients", "common"))
sys.path.insert(0, os.path.join(HERE, "..", "admin"))
import checks
import chromium
from checks import check

HEADING = "document.querySelector('h1')?.textContent"
BUTTON = "document.querySelector('form button')"

arguments = None
browser = None


def is_true(name, value):
    check(name, True, bool(value))


def shows(name, heading):
    is_true(f"{name}: {heading}", browser.wait(f"{HEADING} === {heading!r}"))


def new_visitor():
    browser.command("Network.clearBrowserCookies")
    browser.open(arguments.base_url)
    shows("the front page", "One night at the Gasworks")


def buy_by_keyboard():
    browser.press("Tab")
    browser.press("Tab")
    is_true("the button can be reached by keyboard", browser.evaluate(f"document.activeElement === {BUTTON}"))
    browser.press("Enter")


def comes_back(name, heading):
    browser.open("about:blank")
    browser.open(arguments.base_url)
    shows(name, heading)


def buys_a_ticket():
    new_visitor()
    shot("front")
    os.kill(arguments.worker, signal.SIGSTOP)
    try:
        buy_by_keyboard()
        shows("the first visitor is admitted", "You are in the line")
        shot("line")
    finally:
        os.kill(arguments.worker, signal.SIGCONT)
    shows("and is told by the page itself when it is time", "You are in")
    check("with the first ticket", "1", browser.evaluate("document.getElementById('ticket').textContent"))
    is_true("as the title says", browser.evaluate("document.title.startsWith('Ticket 1 ')"))
    shot("ticket")
    comes_back("who comes back has the ticket still", "You are in")
    check("no script has seen the cookie", "", browser.evaluate("document.cookie"))


def has_no_javascript_and_no_ticket():
    browser.command("Emulation.setScriptExecutionDisabled", value=True)
    new_visitor()
    browser.evaluate(f"{BUTTON}.click()")
    is_true("the second visitor is in the line or has an answer already", browser.wait(f"{HEADING} !== 'One night at the Gasworks' && {HEADING} !== undefined"))
    # What the link is for: every look asks anew.
    is_true("looking again has the answer", browser.wait(
        f"{HEADING} === 'Just missed' || (document.querySelector('.again a')?.click(), false)"))
    check("with the place in the line", "2", browser.evaluate("document.getElementById('place').textContent"))
    shot("missed")
    browser.command("Emulation.setScriptExecutionDisabled", value=False)


def comes_too_late():
    new_visitor()
    browser.evaluate(f"{BUTTON}.click()")
    shows("the third visitor is sent away", "Sold out")
    check("to a page that needs no PHP", "/sold-out.html", browser.evaluate("location.pathname"))
    shot("sold-out")
    comes_back("who comes back is sent away again", "Sold out")


def has_no_cookies():
    browser.command("Network.clearBrowserCookies")
    browser.evaluate("fetch('/buy.php', { method: 'POST', credentials: 'omit' }).then((answer) => answer.text()).then((text) => void (window.told = text))")
    is_true("who has no cookie is told of it", browser.wait("window.told?.includes('Please allow it')"))


def appearance():
    new_visitor()
    browser.scheme("dark")
    shot("front-dark")
    browser.scheme("light")
    browser.resize(320, 700, mobile=True)
    check("no sideways scrolling on a phone", 0, browser.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))
    shot("front-phone")
    foreign = [url for url in browser.requests if not url.startswith((arguments.base_url, "data:", "about:"))]
    check("nothing is fetched from elsewhere", [], foreign)
    check("no complaints", [], list(browser.complaints))


def shot(name):
    if arguments.screenshots:
        os.makedirs(arguments.screenshots, exist_ok=True)
        browser.screenshot(os.path.join(arguments.screenshots, f"sale-{name}.png"))


def main():
    global arguments, browser
    parser = argparse.ArgumentParser()
    parser.add_argument("base_url")
    parser.add_argument("worker", type=int)
    parser.add_argument("--screenshots")
    arguments = parser.parse_args()
    path = chromium.executable()
    if path is None:
        checks.skip("Chromium is not installed")
    browser = chromium.Browser(path)
    try:
        browser.resize(900, 700)
        checks.run(buys_a_ticket, has_no_javascript_and_no_ticket, comes_too_late, has_no_cookies, appearance)
    finally:
        browser.close()


main()
