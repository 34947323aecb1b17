"""The site: every page has its place, nothing is fetched by readers, and a link that leads nowhere fails the build."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytest.importorskip("properdocs")


def build(root, site):
    return subprocess.run(
        [sys.executable, "-m", "properdocs", "build", "--strict", "-f", root / "properdocs.yml", "-d", site],
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built") / "site"
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_readers_fetch_nothing_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        tags = re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", page.read_text("utf-8"))
        assert tags
        assert not [tag for tag in tags if re.search(r"(?:src|href)\s*=\s*[\"']?(?:https?:)?//", tag)], page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", sheet.read_text("utf-8")), sheet


def test_files_that_pages_link_to_travel_along(site):
    assert (site / "benchmarks/results/detection.json").read_bytes() == (
        ROOT / "benchmarks/results/detection.json"
    ).read_bytes()
    assert (site / "index.html").exists()
    assert not list(site.rglob("*template*"))


def test_every_result_has_a_line_on_their_page():
    page = (ROOT / "docs/results/README.md").read_text("utf-8")
    results = [*(ROOT / "docs/results").glob("*.md"), *(ROOT / "benchmarks/results").glob("*.json")]
    assert not [path.name for path in results if path.name != "README.md" and f"{path.name})" not in page]


@pytest.fixture
def small(tmp_path):
    """A copy with a few pages."""
    root = tmp_path / "copy"
    for name in ("properdocs.yml", "tools/docs_site.py", "docs/site.css"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    settings = (root / "properdocs.yml").read_text()
    nav = "nav:\n  - README.md\n  - docs/one.md\n"
    (root / "properdocs.yml").write_text(re.sub(r"(?ms)^nav:.*?^(?=#)", nav, settings))
    (root / "README.md").write_text("# Title\n\n[one](docs/one.md#part)\n")
    (root / "docs/one.md").write_text("# One\n\n## Part\n\n[back](../README.md) [data](../data.json)\n")
    (root / "data.json").write_text("{}")
    return root


@pytest.mark.parametrize(
    ("page", "text", "told"),
    [
        ("README.md", "", ""),
        ("README.md", "[gone](docs/gone.md)", "docs/gone.md"),
        ("README.md", "[gone](docs/one.md#gone)", "#gone"),
        ("docs/one.md", "[gone](../gone.json)", "../gone.json"),
        ("docs/one.md", "[a folder](../docs)", "../docs"),
        ("docs/one.md", "![gone](gone.svg)", "gone.svg"),
        ("docs/two.md", "# Nowhere in nav", "two.md"),
    ],
)
def test_what_is_broken_fails_the_build(small, tmp_path, page, text, told):
    path = small / page
    path.write_text((path.read_text() if path.exists() else "") + "\n" + text + "\n")
    done = build(small, tmp_path / "site")
    assert done.returncode == (1 if told else 0), done.stderr
    assert told in done.stderr
