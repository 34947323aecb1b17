import base64
import copy
import html
import http.server
import io
import json
import random
import re
import shutil
import subprocess
import threading
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from sample_reports import HOSTILE, hostile, pictures

from wiper_cli.reports import render

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

TAGS = {
    "html", "head", "meta", "title", "style", "body", "nav", "main", "header", "section", "article", "footer", "div",
    "p", "h1", "h2", "h3", "span", "strong", "code", "pre", "a", "figure", "figcaption", "img", "br", "svg", "path",
    "line", "circle", "text", "dl", "dt", "dd", "details", "summary", "ul", "li", "table", "thead", "tbody", "tr",
    "th", "td", "wbr",
}  # fmt: skip


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.words, self.stack = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *attribute) for attribute in attrs]

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def test_verdict_numbers_findings_limits_and_command(make):
    text = Page(render("html", [make("purify_accepted")])).text
    order = (
        "Purified", "98.7% → 1.2%", "Triggers", "Findings", "Detectors", "Salience", "Not done", "How to reproduce",
    )  # fmt: skip
    assert [text.index(part) for part in order] == sorted(map(text.index, order))
    for part in (
        "base rate 1.3%",
        "threshold 4",
        "Every class",
        "WIPER-F02",
        "wiper purify models/model.onnx",
        "ab" * 32,
    ):
        assert part in text


def test_every_picture_has_words(make):
    page = render("html", [make("purify_accepted")])
    assert page.count('<svg class="drawing"') == page.count("aria-label=") - page.count("<nav aria-label")
    for _, name, value in Page(page).attributes:
        if name == "alt":
            assert value
    text = Page(page).text
    assert "place unit BS MBS" in text
    assert "epoch accuracy clean adversarial total moved seconds" in text


def addresses(page):
    return [
        value for _, name, value in page.attributes if name in ("src", "href", "srcset", "action", "data")
    ]


def harmless(text):
    page = Page(text)
    assert set(page.tags) <= TAGS
    assert all(address.startswith(("data:", "#")) for address in addresses(page))
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    return page


def test_the_page_asks_nobody_for_anything(sample):
    text = render("html", [sample])
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert ("meta", "content", policy) in harmless(text).attributes
    assert "url(" not in text
    assert "@import" not in text


def test_hostile_names_are_words(make, sample_names):
    for name in sample_names:
        text = render("html", [make(name, hostile=True)])
        page = harmless(text)
        assert "</title><script>alert(1)" in page.text
        assert "{{7*7}}" in page.text
        assert "A" * 1000 not in re.sub("base64,[A-Za-z0-9+/=]+", "", text)
        assert len(text) < 600_000


def test_triggers_of_one_kind_are_one_entry_the_strongest_first(make):
    report = make("purify_accepted")
    for when, rates in (("before", (0.9, 0.95)), ("after", (0.5, 0.0))):
        triggers = report["verification"][when]["triggers"]
        for place, value in enumerate(rates):
            other = copy.deepcopy(triggers[0]) | {"parameters": {"size": 4, "x": place, "y": 3}}
            triggers.append(other | {"asr": other["asr"] | {"value": value}})
    page = Page(render("html", [report]))
    assert page.text.count("Recovered square") == page.text.count("Built-in sinusoid") == 1
    words = " ".join(page.text.split())
    assert "2 more like it" in words
    assert (
        words.index("90.0%") < words.index("2 more like it") < words.index("x 27") < words.index("x 1, y 3")
    )
    assert "98.7% → 1.2%" in words[words.index("2 more like it") :]


def test_a_page_says_what_the_findings_are_of_and_what_to_do_next(make):
    assert "Findings in the original" in Page(render("html", [make("purify_accepted")])).text
    text = " ".join(Page(render("html", [make("scan_finding")])).text.split())
    assert "Findings in the original" not in text
    assert "Next. Do not deploy it: purify it" in text
    assert "wiper purify models/model.onnx --clean" in text


def test_a_path_may_be_broken_at_its_folders_alone(make):
    report = make("scan_clean")
    report["model"]["path"] = "models/<b>/model.onnx"
    assert "models/<wbr>&lt;b&gt;/<wbr>model.onnx" in render("html", [report])


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_what_is_folded_is_open_in_print(tmp_path, make):
    """A page of paper cannot be clicked: the printed text has the folded parts."""
    page = render("html", [make("scan_finding")])
    sizes = []
    for name, text in (("ours", page), ("folded", page.replace("content-visibility: visible;", ""))):
        (tmp_path / f"{name}.html").write_text(text, encoding="utf-8")
        chromium(tmp_path, text, f"--print-to-pdf={tmp_path / name}.pdf", "--no-pdf-header-footer")
        sizes.append((tmp_path / f"{name}.pdf").read_bytes().count(b"/Type /Page\n"))
    assert sizes[0] > sizes[1] > 0


def test_the_copy_is_the_result(make):
    report = make("purify_accepted")
    page = Page(render("html", [report]))
    (link,) = [address for address in addresses(page) if address.startswith("data:application/json")]
    assert json.loads(base64.b64decode(link.split(",", 1)[1])) == report


def noise(size):
    """A picture that PNG cannot make smaller."""
    generator = random.Random(1)
    image = Image.frombytes("RGB", (size, size), generator.randbytes(3 * size * size))
    out = io.BytesIO()
    image.save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def test_the_largest_report_stays_under_2_mb(make):
    report = make("purify_accepted", hostile=True)
    report["model"]["classes"] = ["name " * 200] * 1000
    report["clean"]["classes"] = [{"name": "name " * 200, "images": 3}] * 1000
    thirds = [1 / 3] * 4096
    report["salience"] |= {"units": [index / 7 for index in range(4096)], "mbs": thirds, "am": thirds}
    picture = noise(160)
    pictures = {"clean": picture, "triggered": picture, "difference": picture}
    detector = report["detection"]["detectors"][0] | {"per_class": [index / 11 for index in range(1000)]}
    detector["trigger"] = {"family": "square", "target": 1, "facts": {}, "pictures": pictures}
    report["detection"]["detectors"] = [detector] * 8
    report["verification"]["probes"] = [detector] * 8
    for moment in ("before", "after"):
        report["verification"][moment]["triggers"][0]["pictures"] = pictures
        report["verification"][moment]["triggers"] *= 6
    report["findings"] *= 500
    report["purification"]["changed"] *= 500
    text = render("html", [report])
    assert len(text.encode()) < 2_000_000
    assert "A picture was left out" in text
    assert text.count("<img") >= 1


def test_a_branch_is_drawn_with_the_input_that_takes_it(make):
    report = make("scan_finding")
    report["findings"][0]["path"] = [
        {"operator": "image"},
        {"operator": "Add", "place": "late", "mark": "join"},
    ]
    before = Page(render("html", [report])).tags.count("img")
    report["findings"][0]["pictures"] = pictures()
    page = Page(render("html", [report]))
    assert ("rect", "class", "box join") in page.attributes
    assert "image → [Add]" in page.text
    assert page.tags.count("img") == before + 3


@pytest.mark.parametrize(
    "uri",
    [
        "data:image/svg+xml;base64,PHN2Zz4=",
        "data:image/png;base64,AAAA",
        'data:image/png;base64,x" onerror="alert(1)',
        "https://evil.example/x.png",
        "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + b"\xff" * 20).decode(),
    ],
)
def test_only_small_png_pictures_are_shown(make, uri):
    report = make("scan_finding")
    report["detection"]["detectors"][1]["trigger"]["pictures"] = {"clean": uri}
    text = render("html", [report])
    assert "<img" not in text
    assert "A picture was left out" in text


def test_small_pictures_grow_by_whole_multiples_and_large_ones_keep_their_size(make):
    text = render("html", [make("purify_accepted")])
    widths = {value for tag, name, value in Page(text).attributes if (tag, name) == ("img", "width")}
    assert widths == {"192"}
    assert "image-rendering: pixelated" in text
    report = make("scan_finding")
    report["detection"]["detectors"][1]["trigger"]["pictures"] = {"clean": noise(200)}
    assert ("img", "width", "200") in Page(render("html", [report])).attributes


def test_touched_units_are_marked(make):
    text = render("html", [make("purify_accepted")])
    assert "Ticks mark the 4 units" in text
    assert 'class="ticks"' in text
    report = make("purify_accepted")
    del report["purification"]["changed"][0]["units"]
    assert 'class="ticks"' not in render("html", [report])


def contrast(one, two):
    def luminance(colour):
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    high, low = sorted((luminance(one), luminance(two)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_every_colour_of_text_can_be_read(make):
    """WCAG AA, 4.5 to 1, on paper and card, light and dark."""
    text = render("html", [make("scan_clean")])
    schemes = [
        dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block))
        for block in re.findall(r":root \{([^}]*)\}", text)
    ][:2]
    assert [len(scheme) for scheme in schemes] == [9, 9]
    for scheme in schemes:
        for name in ("ink", "soft", "blue", "orange", "red", "purple"):
            for ground in ("paper", "card"):
                assert contrast(scheme[name], scheme[ground]) >= 4.5, (name, ground)


def chromium(tmp_path, text, *options):
    page = tmp_path / "page.html"
    page.write_text(text, "utf-8")
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
        f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--window-size=1200,1600",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", *options, page.as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


@pytest.fixture
def listening():
    """(address, what was asked for there): a server of our own for a page to call, if it can."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()


def calling(address):
    """Strings that would call ``address`` or run something, each in another way."""
    return [
        f"</title></style></script><script>fetch('{address}/script')</script>",
        f"<img src={address}/image><img src=x onerror=\"document.title='ran'\">",
        f'"><svg onload="document.title=\'ran\'"><image href={address}/svg></svg>',
        f"'><iframe src={address}/frame></iframe><link rel=stylesheet href={address}/sheet>",
        f"<meta http-equiv=refresh content='0;url={address}/refresh'><base href={address}/>",
        f"<style>@import '{address}/import'; body {{ background: url({address}/style) }}</style>",
        f"<a ping={address}/ping href=javascript:document.title='ran'>a</a>{address}/bare javascript:alert(1)",
        *HOSTILE.values(),
    ]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_chromium_runs_nothing_asks_for_nothing_and_complains_of_nothing(tmp_path, make, listening):
    address, asked = listening
    samples = ("scan_explained", "purify_accepted", "refused")
    reports = [
        hostile(name, text) for text in calling(address) for name in samples[:: 3 if len(text) > 1e6 else 1]
    ]
    reports = [report for at, report in enumerate(reports) if at % 3 == at // 3 % 3] + [
        make("purify_accepted")
    ]
    done = chromium(tmp_path, render("html", reports), "--dump-dom", "--virtual-time-budget=5000")
    page = Page(done.stdout)
    assert set(page.tags) <= TAGS
    assert page.tags.count("main") == len(reports)
    assert page.tags.count("img") >= 3
    assert "How to reproduce" in page.text
    assert html.unescape("</title></style></script><script>fetch(") in page.text
    assert f"<title>wiper: {len(reports)} models</title>" in done.stdout
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert asked == []


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_chromium_would_run_and_ask_for_what_is_not_escaped(tmp_path, listening):
    """So that the silence above says something."""
    address, asked = listening
    done = chromium(tmp_path, "".join(calling(address)[:2]), "--dump-dom", "--virtual-time-budget=5000")
    assert "/image" in asked
    assert "<title>ran</title>" in done.stdout


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.parametrize(("scheme", "bright"), [("1", True), ("0", False)], ids=["light", "dark"])
def test_chromium_draws_it(tmp_path, make, scheme, bright):
    shot = tmp_path / "page.png"
    options = (f"--screenshot={shot}", f"--blink-settings=preferredColorScheme={scheme}")
    chromium(tmp_path, render("html", [make("purify_rejected")]), *options)
    with Image.open(Path(shot)) as image:
        pixels = image.convert("RGB")
        assert pixels.size == (1200, 1600)
        assert (sum(pixels.getpixel((4, 4))) > 600) is bright
        # The accent of the banner, the ink of the text, the pictures of the trigger.
        assert len(pixels.getcolors(1_000_000)) > 500


def test_triggered_images_are_shown_beside_the_clean_ones(make):
    page = Page(render("html", [make("scan_explained")]))
    for title in ("BS, clean images", "BS, triggered images", "AM, clean images", "AM, triggered images"):
        assert title in page.text
    alternatives = [value for _, name, value in page.attributes if name == "alt"]
    assert alternatives.count("units moved most") == 1
    assert alternatives.count("lowest BS") == alternatives.count("triggered image") == 2
    assert "the verdict does not use it" in page.text
    assert (
        "unit BS, clean images BS, triggered images AM, clean images AM, triggered images change" in page.text
    )
    assert "--explain" not in Page(render("html", [make("scan_finding")])).text


def test_an_explanation_without_maps_or_am(make):
    report = make("scan_explained")
    report["explanation"]["pictures"] = None
    report["salience"]["am"] = None
    text = Page(render("html", [report])).text
    assert "BS, triggered images" in text
    assert "AM, clean images" not in text
    assert "Where units look" not in text
