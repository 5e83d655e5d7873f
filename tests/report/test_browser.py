"""The page in a real browser, on a desk and on a phone."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tests.report.chromium import needs_chromium, opened
from tests.report.pages import EVIL

PROBE = """
const within = viewer => {
  const {left, top, right, bottom} = viewer.getCanvas().getBoundingClientRect();
  return viewer.getModel(0).selectedAtoms({}).every(atom => {
    const at = viewer.modelToScreen(atom), size = scaleOf(viewer) * atom.style.sphere.radius, y = at.y - scrollY;
    return at.x - size > left && at.x + size < right && y - size > top && y + size < bottom;
  });
};
const colours = viewer => {
  const canvas = document.createElement("canvas"), drawn = viewer.getCanvas();
  viewer.render();
  canvas.width = drawn.width; canvas.height = drawn.height;
  const context = canvas.getContext("2d");
  context.drawImage(drawn, 0, 0);
  return new Set(new Uint32Array(context.getImageData(0, 0, canvas.width, canvas.height).data.buffer)).size;
};
const counts = [], views = [];
for (const crystal of document.querySelectorAll("details.crystal")) {
  const host = crystal.querySelector(".scene");
  if (!host) continue;
  if (!host.viewers) open(host);
  views.push(...host.viewers.map(viewer => [colours(viewer), within(viewer)]));
  close(host);
}
const table = document.getElementById("crystals-table").table, words = document.getElementById("words");
const type = text => {
  words.value = text;
  words.dispatchEvent(new Event("input"));
  counts.push(document.getElementById("count").textContent);
};
for (const text of ["", "na", "NaCl", "apart", "no such"]) type(text);
type("");
document.querySelector("button[data-status=refused]").click();
counts.push(document.getElementById("count").textContent);
document.getElementById("status").value = "";
type("");
table.setSort("c3", "desc");
const sorted = table.getData("active").map(row => row.c3);
let saved;
URL.createObjectURL = blob => { saved = blob; return "#"; };
document.getElementById("export").click();
const heads = [...document.querySelectorAll(".tabulator-col-title")];
return {
  counts, views, sorted, saved: await saved.text(), width: innerWidth,
  clipped: heads.filter(head => head.scrollWidth > head.clientWidth).map(head => head.textContent),
  table: JSON.parse(document.getElementById("crystals-data").textContent),
  wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  charts: [...document.querySelectorAll(".plot")].filter(host => host.querySelector(".plot path, image")).length,
  policy: document.querySelector("meta[http-equiv=Content-Security-Policy]").content,
  loaded: performance.getEntriesByType("resource").map(one => one.name),
  plots: document.querySelectorAll(".plot").length,
  names: table.getRows().map(row => row.getCell("c1").getElement().textContent),
};
"""


@needs_chromium
@pytest.mark.slow
@pytest.mark.parametrize("width", [1400, 600, 390])
def test_a_browser_draws_it_without_a_network(page: Path, tmp_path: Path, width: int) -> None:
    shown = opened(page, PROBE, tmp_path, width=width)
    assert not shown.complaints
    told = shown.answer
    assert told["policy"].startswith("default-src 'none'")
    assert not [name for name in told["loaded"] if not name.startswith(("data:", "blob:"))]
    assert (told["width"], told["clipped"]) == (width, [])
    assert told["wide"] <= 0
    assert len(told["views"]) == 7  # three before and after, and one that was refused
    assert all(colours > 50 and whole for colours, whole in told["views"])
    assert told["charts"] == told["plots"] >= 7
    assert told["counts"] == [*(f"{left} of 4" for left in (4, 1, 1, 1, 0, 4, 1)), "4 of 4"]
    assert told["sorted"] == [4, 2, 2, 2]
    heads, *lines = csv.reader(told["saved"].removeprefix("\ufeff").splitlines())
    assert heads == [column["title"] for column in told["table"]["columns"]]
    kept = [["" if value is None else str(value) for value in row] for row in told["table"]["rows"]]
    assert sorted(lines) == sorted(kept)
    assert sorted(told["names"]) == sorted(f"{EVIL}-{n}" for n in range(4))
