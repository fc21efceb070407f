"""The report: numbers from the records, links that lead somewhere, nothing from a network, and alive in a browser."""

import io
import json
import re
import shutil
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from ferkit import DataError, atomic, leaderboard
from ferkit.cli import main
from ferkit.report import build_report
from ferkit.report_table import COLUMNS

bs4 = pytest.importorskip("bs4", reason="beautifulsoup4 comes with the site builder")
for library in ("sphinx", "myst_nb", "furo"):
    pytest.importorskip(library, reason="the site builder is not installed")
pytestmark = pytest.mark.xdist_group("report")
RESULTS = atomic.project_root() / "results"


def picture() -> str:
    import base64

    from PIL import Image

    file = io.BytesIO()
    Image.linear_gradient("L").resize((900, 300)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def write_notebook(path: Path, title: str, outputs: list, **metadata) -> None:
    """One as papermill leaves it: a figure, a wide table, formulas, links, and what those outputs say."""
    wide = f"<table><tr>{''.join(f'<th>a long name of column {i}</th>' for i in range(20))}</tr></table>"
    row = "[0](results/fer2013/compact-s0/record.json)"
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "x"}, "text/plain": "a widget"}
    links = "[a page](91_failed.ipynb), [no page](92_missing.ipynb)"
    shown = [
        new_output("execute_result", {"image/png": picture(), "text/plain": "a figure"}, execution_count=1),
        new_output("display_data", {"text/html": wide}),
        new_output("display_data", widget),
        new_output("display_data", {"text/markdown": f"| run |\n|---|\n| {row} |"}),
    ]
    cells = [
        new_markdown_cell(f"# {title}\n\nA formula, $\\hat p = \\frac{{a}}{{n}}$, {links}.\n\n$$\\sum_i x_i^2$$"),
        new_markdown_cell("## Work\n\n$\\nonsense{$"),
        new_code_cell("1 + 1", execution_count=1, outputs=shown),
        new_markdown_cell("## What we learned"),
        new_code_cell("f()", execution_count=2, outputs=outputs),
    ]
    nbformat.write(new_notebook(cells=cells, metadata=metadata), path)


@pytest.fixture(scope="module")
def executed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("notebooks")
    about = {"duration": 12.3, "parameters": {"profile": "quick", "data": "/some/where/fer2013.csv"}}
    write_notebook(folder / "90_made_up.ipynb", "90 Made up: does it show?", [], papermill=about)
    error = new_output("error", ename="KeyError", evalue="'x'", traceback=["\x1b[31mKeyError\x1b[0m: 'x'"])
    write_notebook(folder / "91_failed.ipynb", "91 Failed: where?", [error])
    return folder


@pytest.fixture(scope="module")
def site(executed, tmp_path_factory) -> Path:
    return build_report(executed, RESULTS, tmp_path_factory.mktemp("build") / "report").parent


def pages(site: Path) -> dict[Path, "bs4.BeautifulSoup"]:
    return {path: bs4.BeautifulSoup(path.read_text(), "html.parser") for path in site.rglob("*.html")}


def rows(table) -> list[list]:
    return [row.find_all("td") for row in table.tbody.find_all("tr")]


def test_the_leaderboard_is_the_results_table(site):
    table = pages(site)[site / "index.html"].find("table", class_="leaderboard")
    assert [header.get_text() for header in table.thead.find_all("th")] == [title for title, _ in COLUMNS]
    local = RESULTS.parent / "runs"
    lines = leaderboard.results_table(RESULTS, *([local] if local.is_dir() else [])).splitlines()
    names = [cell.strip() for cell in lines[0].split("|")[1:-1]]
    expected = [dict(zip(names, (cell.strip() for cell in line.split("|")[1:-1]), strict=True)) for line in lines[2:]]
    titles = [title for title, _ in COLUMNS]
    for row, wanted in zip(rows(table), expected, strict=True):
        cells = dict(zip(titles, (cell.get_text(" ").split() for cell in row), strict=True))
        assert cells["Model"][0] == wanted["model"].strip("`") and cells["n"] == [wanted["n"]]
        value, interval = cells["Accuracy, %"]
        assert wanted["measured on PrivateTest, %"].startswith(value) and interval == wanted["95 %"]
        for ours, theirs in (("Macro F1, %", "macro F1"), ("ECE, %", "ECE"), ("PublicTest, %", "PublicTest"),
                             ("Parameters", "parameters"), ("Outside data", "outside data")):  # fmt: skip
            assert " ".join(cells[ours]) == wanted[theirs], ours
        assert len(cells["Records"]) == wanted["records"].count("](")


def test_an_ensemble_costs_what_its_members_cost(site):
    table = pages(site)[site / "index.html"].find("table", class_="leaderboard")
    column = [title for title, _ in COLUMNS].index("GFLOPs")
    rows_on_fer2013 = [row for row in rows(table) if row[1].get_text() == "fer2013"]
    cost = {row[0].code.get_text(): float(row[column]["data-value"]) for row in rows_on_fer2013}
    assert cost["ensemble+views"] == 2 * cost["ensemble"] > 4 * cost["compact"] + cost["patt_lite-cpu"]


def test_nothing_comes_from_a_network_and_every_link_leads_somewhere(site):
    found = pages(site)
    anchors = {path: {tag["id"] for tag in soup.find_all(id=True)} for path, soup in found.items()}
    for path, soup in found.items():
        loaded = [tag["src"] for tag in soup.find_all(src=True)]
        loaded += [tag["href"] for tag in soup.find_all("link", href=True)]
        assert not [address for address in loaded if address.startswith(("http", "//"))]
        followed = [tag["href"] for tag in soup.find_all("a", href=True)]
        for address in {*loaded, *followed}:
            parts = urlsplit(address)
            if parts.scheme:
                assert address in followed and parts.scheme == "https"
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.is_file(), f"{path.name}: {address}"
            assert not parts.fragment or target.suffix != ".html" or parts.fragment in anchors[target], address
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//|@import", style.read_text()), style


def test_the_front_page_says_which_notebooks_ran(site):
    soup = pages(site)[site / "index.html"]
    found = {row[0].get_text(): [cell.get_text() for cell in row[1:]] for row in rows(soup.find(class_="notebooks"))}
    assert found["90 Made up: does it show?"] == ["ok", "quick, fer2013.csv", "12"]
    assert found["91 Failed: where?"] == ["failed at In [2]: KeyError", "–", "–"]
    assert found["00 Start here: what can be trusted?"] == ["not run", "–", "–"]
    assert (site / "notebooks" / "91_failed.html").exists() and "KeyError" in soup.find(class_="failed").get_text()
    assert {"studies.html", "ensembles.html", "leaks.html"} <= {path.name for path in site.iterdir()}


def test_a_notebook_page_has_contents_formulas_figures_and_links(site):
    soup = pages(site)[site / "notebooks" / "90_made_up.html"]
    contents = soup.find(class_="toc-tree").get_text()
    assert "Work" in contents and "What we learned" in contents
    assert len(soup.find_all("math")) == 2 and "\\nonsense{" in soup.article.get_text()
    assert soup.article.find("img")["alt"] == "Figure: Work" and "a widget" in soup.article.get_text()
    links = {tag.get_text(): tag["href"] for tag in soup.article.find_all("a", href=True)}
    assert links["a page"] == "91_failed.html" and "no page" not in links and "no page" in soup.article.get_text()
    assert links["0"] == "../results/fer2013/compact-s0/record.json"


def test_a_report_is_whole_or_not_there(executed, tmp_path, monkeypatch):
    out = tmp_path / "report"
    out.mkdir()
    (out / "mine.txt").write_text("not a report")
    with pytest.raises(ValueError, match="no report; name another folder"):
        build_report(executed, RESULTS, out)
    (out / "_static").mkdir()
    (out / "_static" / "report.js").write_text("")

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("ferkit.report.build_site", killed)
    with pytest.raises(KeyboardInterrupt):
        build_report(executed, RESULTS, out)
    assert (out / "mine.txt").exists() and [path.name for path in tmp_path.iterdir()] == ["report"]
    out.rename(tmp_path / ".report.before")  # as a kill between the two renames leaves it
    with pytest.raises(KeyboardInterrupt):
        build_report(executed, RESULTS, out)
    assert (out / "mine.txt").exists()
    monkeypatch.setattr("ferkit.report.build_site", lambda _source, site, *_: (site.mkdir(), (site / "new").touch()))
    assert build_report(executed, RESULTS, out) == out / "index.html"
    assert [path.name for path in out.iterdir()] == ["new"] and [path.name for path in tmp_path.iterdir()] == ["report"]


def test_runs_beside_the_results_count_and_bad_ones_do_not_prevent_a_report(tmp_path, monkeypatch):
    for source, place in (("compact-s0", "results"), ("compact-s1", "runs"), ("patt_lite-cpu-s0", "runs")):
        shutil.copytree(RESULTS / "fer2013" / source, tmp_path / place / "fer2013" / source)
    fronts = []

    def keep(source, site, _title, extra):
        fronts.append((source / "index.md").read_text())
        fronts.append(sorted(path.relative_to(extra).as_posix() for path in extra.rglob("*.json")))
        site.mkdir()

    monkeypatch.setattr("ferkit.report.build_site", keep)
    build_report(tmp_path / "none", tmp_path / "results", tmp_path / "report")
    assert (
        "2 seeds</small>" in fronts[0]
        and "1 seed</small>" in fronts[0]
        and "patt_lite-cpu" in fronts[0]
        and "not run" in fronts[0]
    )
    assert "runs/fer2013/compact-s1/record.json" in fronts[1]
    file = tmp_path / "runs" / "fer2013" / "patt_lite-cpu-s0" / "record.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"batch_independence": 0.5}))
    shutil.rmtree(tmp_path / "report")
    build_report(tmp_path / "none", tmp_path / "results", tmp_path / "report")
    assert "patt_lite-cpu" not in fronts[2] and "2 seeds</small>" in fronts[2]
    file = tmp_path / "runs" / "fer2013" / "compact-s1" / "record.json"
    record = json.loads(file.read_text())
    file.write_text(json.dumps(record | {"recipe": record["recipe"] | {"lr": 0.5}}))
    shutil.rmtree(tmp_path / "report")
    build_report(tmp_path / "none", tmp_path / "results", tmp_path / "report")
    assert "share a recipe's name and differ in the recipe" in fronts[4] and "2 seeds</small>" not in fronts[4]


def test_bad_input_is_one_clear_error(tmp_path, monkeypatch, capsys):
    assert main(["report", "--results", str(tmp_path / "nowhere"), "--out", str(tmp_path / "report")]) == 1
    assert "nowhere: no such folder of records" in capsys.readouterr().err
    (tmp_path / "90_bad.ipynb").write_text("no JSON")
    with pytest.raises(DataError, match=r"90_bad.ipynb: no readable notebook \(NotJSONError"):
        build_report(tmp_path, RESULTS, tmp_path / "report")
    (tmp_path / "90_bad.ipynb").write_text('{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [{}]}')
    with pytest.raises(DataError, match="90_bad.ipynb: no readable notebook"):
        build_report(tmp_path, RESULTS, tmp_path / "report")
    with pytest.raises(ValueError, match="no folder of executed notebooks"):
        build_report(tmp_path / "90_bad.ipynb", RESULTS, tmp_path / "report")
    monkeypatch.setitem(sys.modules, "furo", None)
    with pytest.raises(ValueError, match="the report needs furo; pip install furo"):
        build_report(tmp_path, RESULTS, tmp_path / "report")
    assert [path.name for path in tmp_path.iterdir()] == ["90_bad.ipynb"]


@pytest.fixture(scope="module")
def browser():
    pytest.importorskip("websocket", reason="no websocket-client to talk to Chromium with")
    from chromium import CHROMIUM, Browser

    if not CHROMIUM:
        pytest.skip("no Chromium here (Debian's package is called chromium)")
    with Browser() as running:
        yield running


@pytest.mark.parametrize("width", [1440, 390])
def test_every_page_opens_from_disk_without_a_complaint(site, browser, width):
    browser.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500)
    for path in sorted(site.rglob("*.html")):
        browser.open(path.as_uri())
        assert browser.problems == [], path
        assert browser.value("[...document.querySelectorAll('article img')].every(i => i.naturalWidth > 0)"), path
        assert browser.value("document.documentElement.scrollWidth <= innerWidth"), f"{path} scrolls sideways"
    browser.open(f"{(site / 'search.html').as_uri()}?q=augmentation")
    browser.value("new Promise(done => setInterval(() => document.querySelector('ul.search li') && done(), 20))")
    assert browser.problems == []


def natural(text: str) -> list:
    """A key by which 3 comes before 17, and marks before digits before letters, in Unicode's order (CLDR's root)."""
    marks = "\n _-,;:!?.'\"()[]{}@*/\\&#%`^+<=>|~$"
    return [(1, int(part)) if part.isdigit() else (2, ord(part)) if part.isalpha() else (0, marks.index(part))
            for part in re.findall(r"\d+|\D", text.lower())]  # fmt: skip


def test_a_click_or_a_key_sorts_the_leaderboard(site, browser):
    browser.open((site / "index.html").as_uri())
    for i, (title, kind) in enumerate(COLUMNS):
        header = f"document.querySelectorAll('table.leaderboard th')[{i}]"
        cells = f"[...document.querySelectorAll('table.leaderboard td:nth-child({i + 1})')]"
        if not kind:
            assert browser.value(f"{header}.querySelector('button') === null")
            continue
        for turn in range(2):
            if turn:
                browser.value(f"{header}.querySelector('button').click()")
            else:
                browser.value(f"{header}.querySelector('button').focus()")
                browser.press("Enter", 13, "\r")
            descending = (kind == "numbers") != bool(turn)
            assert browser.value(f"{header}.ariaSort") == ("descending" if descending else "ascending"), title
            assert browser.value("document.querySelectorAll('table.leaderboard th[aria-sort]').length") == 1
            known = [cell for cell in browser.value(f"{cells}.map(c => c.dataset.value ?? c.innerText)") if cell != "–"]
            keys = [float(cell) if kind == "numbers" else natural(cell) for cell in known]
            assert keys == sorted(keys, reverse=descending), title
            assert "–" not in browser.value(f"{cells}.map(c => c.innerText)")[: len(known)], title
    assert browser.problems == []


def test_a_figure_is_enlarged_and_closes_again(site, browser):
    browser.open((site / "notebooks" / "90_made_up.html").as_uri())
    opened = "document.querySelector('dialog.enlarged').open"
    browser.value("document.querySelector('article img').click()")
    assert browser.value(opened) and browser.value("document.querySelector('dialog img').naturalWidth") == 900
    browser.press("Escape", 27)
    assert not browser.value(opened)
    browser.value("document.querySelector('article img').focus()")
    browser.press("Enter", 13, "\r")
    assert browser.value(opened)
    browser.value("document.querySelector('dialog.enlarged').click()")
    assert not browser.value(opened) and browser.problems == []
