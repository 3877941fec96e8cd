import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from looptagger.report import page
from looptagger.report.digest import DRAWN, Digest, Draw, general
from looptagger.roles import ROLES
from tests.conftest import write_tones

EVIL = "a<script>document.title='taken'</script>&\"'.wav"


def rows(count: int, folder: str = "/nowhere", seed: int = 0) -> pa.Table:
    """Rows as an output has them; every tenth has failed."""
    rng = np.random.default_rng(seed)
    scores = rng.random((count, len(ROLES))).astype(np.float32)
    bad = np.arange(count) % 10 == 9
    columns: dict[str, Any] = {
        "id": [f"{folder}/{i}.wav" for i in range(count)],
        "uri": [f"{folder}/{i}.wav" for i in range(count)],
        "status": np.where(bad, "undecodable", "ok"),
        "error": pa.array([f"only {i} bytes" if is_bad else None for i, is_bad in enumerate(bad)], pa.string()),
    }
    columns |= {role: pa.array(scores[:, i], mask=bad) for i, role in enumerate(ROLES)}
    said = [
        None if is_bad else [r for r, s in zip(ROLES, row, strict=True) if s > 0.8]
        for row, is_bad in zip(scores, bad, strict=True)
    ]
    columns["roles"] = pa.array(said, pa.list_(pa.string()))
    columns["duration_s"] = pa.array(rng.uniform(0.1, 400, count), mask=bad)
    columns["sample_rate"] = pa.array(np.full(count, 44_100, np.int32), mask=bad)
    columns["codec"] = pa.array(np.full(count, "flac"), mask=bad)
    return pa.table(columns)


def test_a_digest_counts_as_one_would_by_hand() -> None:
    table, found = rows(1000), Digest()
    for start in (0, 300, 301):
        found.add(table.slice(start, {0: 300, 300: 1, 301: 699}[start]))
    said = [each for each in table.column("roles").to_pylist() if each is not None]
    assert (found.clips, found.ok) == (1000, 900)
    assert found.audio_s == pytest.approx(sum(filter(None, table.column("duration_s").to_pylist())))
    assert found.said.tolist() == [sum(len(each) == n for each in said) for n in range(7)]
    for i, one in enumerate(ROLES):
        scores = [score for score in table.column(one).to_pylist() if score is not None]
        assert found.scores[i].tolist() == np.histogram(scores, 20, (0, 1))[0].tolist()
        for j, other in enumerate(ROLES):
            assert found.together[i, j] == sum(one in each and other in each for each in said)
        assert len(found.by_role[i].rows) == DRAWN
        assert all(one in row["roles"] for row in found.by_role[i].rows)
    assert found.lengths.sum() == 900
    assert found.reasons == {("undecodable", "only … bytes"): (100, [f"/nowhere/{i}.wav" for i in (9, 19, 29)])}
    assert general("8,123 bytes of mp3") == "… bytes of …"


def test_reasons_that_are_not_shown_are_counted() -> None:
    found = Digest()
    found.statuses["undecodable"] = 145
    found.reasons = {("undecodable", f"{chr(97 + i // 26)}{chr(97 + i % 26)}"): (3, ["x"]) for i in range(45)}
    text = page.html(found, "tags", "m@1", 145)
    assert text.count("<td>undecodable</td>") == 40
    assert "25 more for other reasons" in text  # of 145 failed clips, 120 have theirs


def test_a_draw_is_fair_however_the_rows_come() -> None:
    counts = np.zeros(40)
    table = pa.table({"n": list(range(40))})
    for seed in range(400):
        draw = Draw(np.random.default_rng(seed), 8)
        for start in range(0, 40, 5):
            draw.add(table.slice(start, 5), np.arange(5))
        counts[[row["n"] for row in draw.rows]] += 1
    assert counts.sum() == 8 * 400
    assert counts.min() > 50  # 80 expected, standard deviation 8
    assert counts.max() < 110


def test_an_output_with_nothing_in_it_is_a_page_too() -> None:
    assert "every clip was tagged" in page.html(Digest(), "tags", "m@1", 0)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page on clips of this disk, one with a name that would do harm."""
    folder = tmp_path_factory.mktemp("report")
    paths = write_tones(folder / "audio", 40)
    paths[0].rename(folder / "audio" / EVIL.replace("/", "_"))
    table, found = rows(300), Digest()
    uris = [str(path) for path in sorted((folder / "audio").iterdir())]
    names = pa.array([uris[i % 40] for i in range(300)])
    table = table.set_column(0, "id", names).set_column(1, "uri", names)
    found.add(table)
    path = folder / "report.html"
    path.write_text(page.html(found, "s3://bucket/tags", "starter@0123456789ab", 300), encoding="utf-8")
    return path


def test_a_page_needs_nothing_from_elsewhere_and_names_do_no_harm(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    assert "<script" not in text
    assert not re.findall(r"(?:src|href)=\"(?!file:///)", text)
    assert text.count("<audio") > 20


FLAGS = (
    "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
    "disable-component-update", "disable-sync", "disable-dev-shm-usage",
)  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("needs Debian's chromium and chromium-driver")
    from selenium import webdriver

    options, service = webdriver.ChromeOptions(), webdriver.ChromeService(shutil.which("chromedriver"))
    options.binary_location = str(shutil.which("chromium"))
    for flag in FLAGS:
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, service)
    yield driver
    driver.quit()


@pytest.mark.parametrize("width", [500, 1280])
def test_a_real_browser_shows_it_whole_and_plays_its_clips(browser: Any, report: Path, width: int) -> None:
    browser.set_window_size(width, 900)
    browser.get(report.as_uri())
    assert browser.title == "looptagger: s3://bucket/tags"
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    widths = browser.execute_script("return [...document.querySelectorAll('.bars i')].map(e => e.offsetWidth)")
    assert max(widths) > 100
    state = browser.execute_async_script(
        "const done = arguments[0], all = [...document.querySelectorAll('audio')];"
        "Promise.all(all.map(a => new Promise(r => { a.onloadedmetadata = () => r(a.duration); a.onerror = () => r(-1);"
        " a.load(); a.preload = 'metadata'; }))).then(done);"
    )
    assert min(state) == pytest.approx(0.25, abs=0.01)
    assert browser.get_log("browser") == []
