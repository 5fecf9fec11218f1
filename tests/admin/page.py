"""The dashboard in a headless Chromium, against a running server or the mock: what it shows, what it says when the server goes,
hostile names, keyboard, phone, both colour schemes. Prints a line a check as the scripts of tests/clients do; ends with 0 if all are
well, 1 if one failed, 77 if there is no Chromium.

Usage: python page.py BASE_URL MEMCACHE_PORT [--restart COMMAND] [--token TOKEN] [--screenshots DIR]
       python page.py --mock [--screenshots DIR]

--restart: the command, run by sh, that starts the server again on the same ports after this script killed it by the pid of its
overview. The script ends what it started. Without it the restart is not checked. --token: the one for actions; without it they are
checked to be absent. --screenshots: where page-light.png, page-dark.png, page-gone.png and page-phone.png go."""

import argparse
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "clients", "common"))
sys.path.insert(0, HERE)
import checks
import chromium
from checks import check, queue_name

# As hostile as a name can be on the wire, where spaces and slashes cannot be in it. The mock has one that no server would take.
HOSTILE = "<img>\"'&lt;onerror=alert(1)"
HOSTILE_MOCK = "<img src=x onerror=alert(1)>"
READY = "document.querySelector('#queue-rows tr') !== null && document.getElementById('state-text').textContent === 'live'"

arguments = None
browser = None
server = None


def is_true(name, value):
    check(name, True, bool(value))


def becomes(name, expression, timeout_s=20):
    is_true(name, browser.wait(expression, timeout_s))


def memcache(*requests):
    """Sends requests one after the other and returns the last lines of their replies."""
    replies = []
    with socket.create_connection(("127.0.0.1", arguments.memcache_port), timeout=10) as connection:
        file = connection.makefile("rwb")
        for request in requests:
            file.write(request)
            file.flush()
            line = file.readline()
            while line.startswith(b"VALUE"):
                file.readline()
                line = file.readline()
            replies.append(line.strip())
    return replies


def put(queue, count=1):
    return memcache(*[f"set {queue} 0 0 5\r\nhello\r\n".encode()] * count)


def overview():
    with urllib.request.urlopen(f"{arguments.base_url}api/v1/overview", timeout=10) as answer:
        return json.load(answer)


def answers():
    try:
        return overview()["pid"] > 0
    except OSError:
        return False


def until(name, condition, timeout_s=60):
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return check(name, True, False)
        time.sleep(0.1)


def filter_by(text):
    browser.evaluate(f"(() => {{ const box = document.getElementById('filter'); box.value = {json.dumps(text)}; "
                     "box.dispatchEvent(new Event('input', {bubbles: true})); })()")


def row(queue, column):
    """An expression: the text of a queue's cell; empty without such a row."""
    return (f"([...document.querySelectorAll('#queue-rows tr')].find((tr) => tr.cells[0].textContent === {json.dumps(queue)})"
            f"?.cells[{column}].textContent ?? '')")


def loads():
    # A server just started has no queue to show.
    put(queue_name("first"))
    browser.resize(1360, 900)
    browser.open(arguments.base_url)
    becomes("the page is live", READY)
    is_true("it names the version", overview()["version"] in browser.evaluate("document.getElementById('version').textContent"))
    becomes("the verdict says something", "document.querySelector('#verdict-lines li').textContent.length > 10")
    becomes("settings are there", "document.querySelectorAll('#settings tbody tr').length > 0")
    becomes("all windows of latency are there", "document.querySelector('#latency thead tr').cells.length === 5")
    foreign = [url for url in browser.requests if not url.startswith((arguments.base_url, "data:"))]
    check("nothing is fetched from elsewhere", [], foreign)
    check("no complaints", [], list(browser.complaints))


def queue_fills_and_drains():
    queue = queue_name("fills")
    check("puts are stored", [b"STORED"] * 40, put(queue, 40))
    filter_by(queue)
    becomes("a queue's depth shows", f"{row(queue, 1)} === '40'")
    becomes("the age of its oldest message shows", f"/^[0-9.]+\\sm?s$/.test({row(queue, 2)})")
    becomes("what comes in shows", f"parseFloat({row(queue, 4)}) > 0")
    becomes("the oldest message grows older", f"parseFloat({row(queue, 2)}) > 3")
    check("half is taken", [b"END"] * 20, memcache(*[f"get {queue}\r\n".encode()] * 20))
    becomes("draining shows", f"{row(queue, 1)} === '20'")
    becomes("what goes out shows", f"parseFloat({row(queue, 5)}) > 0")
    becomes("the trend points down or has gone", f"!{row(queue, 3)}.includes('↑')", 40)
    memcache(*[f"get {queue}\r\n".encode()] * 20)
    becomes("empty shows", f"{row(queue, 1)} === '0' && {row(queue, 2)} === '–'")
    is_true("a sparkline is drawn", browser.evaluate("document.querySelector('#queue-rows .spark path').getAttribute('d').includes('L')"))


def filter_and_sort():
    names = [queue_name(f"sorted-{letter}") for letter in "abc"]
    for count, name in enumerate(names):
        put(name, count + 1)
    filter_by(queue_name("sorted"))
    shown = "[...document.querySelectorAll('#queue-rows tr')].map((tr) => tr.cells[0].textContent).join()"
    becomes("the filter leaves what matches, deepest first", f"{shown} === {json.dumps(','.join(reversed(names)))}")
    browser.evaluate("document.querySelector('#queues th[data-sort=name] button').focus()")
    browser.press("Enter")
    becomes("Enter on a header sorts by it", f"{shown} === {json.dumps(','.join(names))}")
    check("aria-sort says so", "ascending", browser.evaluate("document.querySelector('#queues th[data-sort=name]').ariaSort"))
    browser.press("Enter")
    becomes("Enter again turns the order", f"{shown} === {json.dumps(','.join(reversed(names)))}")
    check("aria-sort says so too", "descending", browser.evaluate("document.querySelector('#queues th[data-sort=name]').ariaSort"))
    browser.press("Tab")
    check("Tab goes to the next header", "ready", browser.evaluate("document.activeElement.textContent"))
    browser.press("Enter")
    becomes("and sorts by depth", f"{shown} === {json.dumps(','.join(reversed(names)))}")
    put(names[0], 5)
    becomes("rows move when depths change", f"{shown}.startsWith({json.dumps(names[0])})")
    browser.evaluate("document.getElementById('hold').click()")
    put(names[1], 20)
    becomes("with the order held values change", f"{row(names[1], 1)} === '22'")
    is_true("but rows stay", browser.evaluate(f"{shown}.startsWith({json.dumps(names[0])})"))
    browser.evaluate("document.getElementById('hold').click()")
    becomes("and move again afterwards", f"{shown}.startsWith({json.dumps(names[1])})")


def hostile_name():
    put(HOSTILE)
    filter_by("onerror")
    becomes("a hostile name is shown as text", f"{row(HOSTILE, 1)} !== ''")
    if arguments.mock:
        becomes("a tag with attributes is shown as text", f"{row(HOSTILE_MOCK, 1)} !== ''")
    check("and makes no element", 0, browser.evaluate("document.images.length"))
    reversing = "gnp\u202e.exe"
    memcache(f"set {reversing} 0 0 1\r\nx\r\n".encode())
    filter_by(".exe")
    becomes("a mark that turns the reading direction is shown as its code", f"{row('gnp' + chr(92) + 'u{202e}.exe', 1)} !== ''")
    filter_by("")


def charts_by_keyboard():
    browser.evaluate("document.querySelector('.plot').focus()")
    value = "document.querySelector('.plot').ariaValueText"
    becomes("a chart has values", f"/puts [0-9]/.test({value})")
    newest = browser.evaluate("document.querySelector('.plot').ariaValueNow")
    browser.press("ArrowLeft")
    is_true("an arrow key goes back in time", int(browser.evaluate("document.querySelector('.plot').ariaValueNow")) < int(newest))
    is_true("the readout shows the time", browser.evaluate("/^\\d\\d:\\d\\d:\\d\\d$/.test(document.querySelector('.chart .time').textContent)"))
    same = "new Set([...document.querySelectorAll('.chart .time')].map((time) => time.textContent)).size"
    check("all charts show the same moment", 1, browser.evaluate(same))
    browser.press("Escape")
    check("Escape goes back to now", "now", browser.evaluate("document.querySelector('.chart .time').textContent"))
    browser.evaluate("document.querySelector('.chart details').open = true")
    becomes("a chart is a table too", "document.querySelectorAll('.chart tbody tr').length > 1")
    browser.evaluate("document.querySelector('.chart details').open = false")
    browser.evaluate("document.activeElement.blur()")


def verdicts():
    """The rules of model.js, in the browser that runs them: what is changed in a reading where all is well, and what it has to say."""
    well = {
        "durable": True, "time_ms": 1_790_000_000_000, "totals": {"corrupt": 0}, "connections": {"max": 10},
        "journal": {"used": 1, "capacity": 100, "refuses_puts": False}, "checkpoints": {"backlog": 0, "running": False},
        "disk": {"free": 10_000, "min_free": 100},
    }

    def said(overview=None, put_us=1000, write_us=800, growing=None, oldest=None, samples=(), rejected=False):
        metrics = [{"name": name, "windows": {"10s": {"count": 1, "p99": p99}}} for name, p99 in (("put", put_us), ("journal_write", write_us))]
        state = {"overview": well | (overview or {}), "latency": {"metrics": metrics}, "growing": growing, "oldest": oldest,
                 "samples": list(samples), "rejectedLately": rejected}
        code = (f"import(new URL('model.js', location).href).then(({{ verdict, worst }}) => {{ const lines = verdict({json.dumps(state)}); "
                "return worst(lines) + ': ' + lines.map((line) => line.text.map((part) => part.queue ?? part).join('')).join(' ').replaceAll('\\u00a0', ' '); })")
        return browser.evaluate(code)

    def says(name, words, text):
        missing = [word for word in words if word not in text]
        check(name if not missing else f"{name}: {text}", [], missing)

    old = {"name": "mail", "oldest_ms": 90_000}
    says("all is well", ["ok:", "No queue grows, and none holds", "the disk keeps up"], said())
    says("the oldest message is named", ["ok:", "The oldest message is in mail", "1 min 30 s"], said(oldest=old))
    says("a queue that grows and is old", ["watch:", "mail grows by 12 ", "1 min 30 s"], said(growing={"queue": old, "growth": 12.0}))
    says("a burst is no trouble", ["ok:", "mail grows by"], said(growing={"queue": old | {"oldest_ms": 500}, "growth": 12.0}))
    queues = [{"name": name, "put_rate": rate, "get_rate": 1.0, "oldest_ms": oldest_ms}
              for name, rate, oldest_ms in (("burst", 90.0, 10), ("mail", 5.0, 90_000), ("sms", 7.0, 80_000), ("idle", 1.0, 99_000), ("empty", 1.0, None))]
    chosen = lambda queues: browser.evaluate("import(new URL('model.js', location).href).then(({ growingQueue }) => "
                                             f"growingQueue({json.dumps(queues)})?.queue.name ?? null)")
    check("a burst does not hide a queue that grows and is old", "sms", chosen(queues))
    check("a burst is named when there is no such queue", "burst", chosen([queue for queue in queues if queue["name"] not in ("mail", "sms")]))
    check("none grows", None, chosen(queues[3:]))
    says("slow puts by the disk", ["watch:", "the disk is the reason"], said(put_us=50_000, write_us=30_000))
    says("slow puts by something else", ["watch:", "not because of the disk"], said(put_us=50_000, write_us=900))
    says("with -N the disk is not blamed", ["watch:", "not because of the disk"], said({"durable": False}, put_us=50_000, write_us=30_000))
    says("puts refused", ["trouble:", "Puts are refused"], said({"journal": {"used": 1, "capacity": 100, "refuses_puts": True}}))
    says("a full disk", ["trouble:", "The disk is full"], said({"disk": {"free": 99, "min_free": 100}}))
    says("a disk that is nearly full", ["watch:", "nearly full"], said({"disk": {"free": 199, "min_free": 100}}))
    says("a full journal", ["watch:", "Checkpoints do not keep up"], said({"journal": {"used": 80, "capacity": 100, "refuses_puts": False}}))
    rising = [{"backlog": 1000 * at, "running": True} for at in range(10)]
    says("a backlog that only grows", ["watch:", "backlog only grows"], said(samples=rising))
    says("a backlog between checkpoints", ["ok:"], said(samples=[sample | {"running": False} for sample in rising]))
    says("connections refused", ["watch:", "Connections are refused"], said(rejected=True))
    says("damage", ["trouble:", "2 messages were damaged"], said({"totals": {"corrupt": 2}}))


def actions():
    buttons = "document.querySelectorAll('#queue-rows button').length"
    if arguments.token is None:
        check("without a token there are no actions", 0, browser.evaluate(buttons))
        return
    queue = queue_name("acted-on")
    put(queue, 3)
    filter_by(queue)
    becomes("a queue has actions", f"{row(queue, 1)} === '3' && {buttons} === 2")
    browser.evaluate("document.querySelector('#queue-rows button').click()")
    go = "document.getElementById('dialog-go')"
    is_true("nothing is done without confirmation", browser.evaluate(f"document.getElementById('dialog').open && {go}.disabled"))
    browser.evaluate("document.getElementById('dialog-confirm').focus()")
    browser.type(queue)
    browser.evaluate("document.getElementById('dialog-token').focus()")
    browser.type("not the token")
    browser.press("Enter")
    becomes("a wrong token is an error", "document.getElementById('dialog-error').textContent.includes('Not done')")
    check("and nothing was purged", "3", browser.evaluate(row(queue, 1)))
    # Chromium logs the refusal on its own account.
    browser.complaints[:] = [each for each in browser.complaints if "403" not in each and "401" not in each]
    browser.evaluate("document.getElementById('dialog-token').select()")
    browser.type(arguments.token)
    browser.press("Enter")
    becomes("purge empties the queue", f"!document.getElementById('dialog').open && {row(queue, 1)} === '0'")
    browser.evaluate("document.querySelectorAll('#queue-rows button')[1].click()")
    is_true("the token is asked for once", browser.evaluate("document.getElementById('dialog-token-field').hidden"))
    browser.evaluate("document.getElementById('dialog-confirm').focus()")
    browser.type(queue)
    browser.press("Enter")
    becomes("delete takes it away", f"{row(queue, 1)} === ''")
    check("the token is stored nowhere", 0, browser.evaluate("localStorage.length + sessionStorage.length + document.cookie.length"))
    filter_by("")
    becomes("all queues are back", READY)


def one_answer_fails():
    browser.evaluate("window.realFetch = window.fetch; window.fetch = (url, options) => url.includes('shards') "
                     "? Promise.resolve(new Response('{\"error\":\"out of order\"}', { status: 500 })) : window.realFetch(url, options)")
    becomes("one answer that fails makes it live in part", "document.getElementById('state-text').textContent === 'live, in part'")
    becomes("and is said", "document.getElementById('verdict').textContent.includes('shards: out of order')")
    browser.evaluate("void (window.fetch = window.realFetch)")
    becomes("and is forgotten when it comes", f"{READY} && !document.getElementById('verdict').textContent.includes('out of order')")


def appearance():
    check("no complaints until here", [], list(browser.complaints))
    browser.move(2, 2)
    for scheme in ("light", "dark"):
        browser.scheme(scheme)
        shot(f"page-{scheme}")
    browser.scheme("light")
    for width in (320, 390):
        browser.resize(width, 800, mobile=True)
        overflow = browser.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        check(f"no sideways scrolling at {width} pixels", 0, overflow)
        widest = ("[...document.querySelectorAll('main > *, header > *, .bar > *, .facts, .chart')]"
                  ".filter((each) => each.getBoundingClientRect().right > innerWidth + 1).map((each) => each.id || each.className).join()")
        check(f"nothing is cut at {width} pixels", "", browser.evaluate(widest))
        if width == 320:
            time.sleep(0.3)
            shot("page-phone")
    browser.resize(1360, 900)


def restart():
    global server
    if arguments.restart is None:
        print("the restart is not checked: no --restart")
        return
    browser.wait(READY)
    rows = browser.evaluate("document.querySelectorAll('#queue-rows tr').length")
    os.kill(overview()["pid"], signal.SIGKILL)
    becomes("the page says that there is no answer", "/^no answer for \\d+ s$/.test(document.getElementById('state-text').textContent)")
    becomes("and since when its values are", "/showing the values of \\d\\d:\\d\\d:\\d\\d/.test(document.getElementById('verdict').textContent)")
    check("the values stay", rows, browser.evaluate("document.querySelectorAll('#queue-rows tr').length"))
    is_true("they are greyed", browser.evaluate("document.body.classList.contains('lost')"))
    shot("page-gone")
    if server is not None:
        server.wait()
    server = subprocess.Popen(["sh", "-c", f"exec {arguments.restart}"], stdin=subprocess.DEVNULL)
    until("the server is back", answers)
    becomes("the page is live again by itself", READY)
    is_true("it says that the server restarted", browser.evaluate("document.getElementById('notice-text').textContent.includes('restarted')"))
    is_true("nothing is grey", browser.evaluate("!document.body.classList.contains('lost')"))
    negative = "[...document.querySelectorAll('#facts .value')].some((value) => value.textContent.startsWith('-'))"
    check("no rate is negative", False, browser.evaluate(negative))
    # Chromium itself logs each refused connection; anything else would be the page's.
    others = [each for each in browser.complaints if "ERR_" not in each]
    check("no other complaints", [], others)


def shot(name):
    if arguments.screenshots:
        os.makedirs(arguments.screenshots, exist_ok=True)
        time.sleep(0.2)
        browser.screenshot(os.path.join(arguments.screenshots, f"{name}.png"))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def parse():
    parser = argparse.ArgumentParser()
    parser.add_argument("base_url", nargs="?")
    parser.add_argument("memcache_port", nargs="?", type=int)
    parser.add_argument("--mock", action="store_true")
    parser.add_argument("--restart")
    parser.add_argument("--token")
    parser.add_argument("--screenshots")
    parsed = parser.parse_args()
    if parsed.mock:
        http, parsed.memcache_port = free_port(), free_port()
        parsed.base_url, parsed.token = f"http://127.0.0.1:{http}/", "secret"
        parsed.restart = shlex.join([sys.executable, os.path.join(HERE, "mock.py"), str(http), str(parsed.memcache_port)])
    if parsed.base_url is None or parsed.memcache_port is None:
        parser.error("BASE_URL and MEMCACHE_PORT, or --mock")
    parsed.base_url = parsed.base_url.rstrip("/") + "/"
    return parsed


def main():
    global arguments, browser, server
    arguments = parse()
    path = chromium.executable()
    if path is None:
        checks.skip("chromium is not installed")
    try:
        if arguments.mock:
            server = subprocess.Popen(shlex.split(arguments.restart), stdin=subprocess.DEVNULL)
            until("the mock answers", answers)
        browser = chromium.Browser(path)
        checks.run(loads, queue_fills_and_drains, filter_and_sort, hostile_name, charts_by_keyboard, verdicts, actions, one_answer_fails, appearance, restart)
    finally:
        if browser is not None:
            browser.close()
        if server is not None:
            server.kill()


if __name__ == "__main__":
    main()
