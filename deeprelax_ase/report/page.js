"use strict";
const dark = matchMedia("(prefers-color-scheme: dark)");
const ink = () => (dark.matches ? "#e4e4e4" : "#222");
const data = id => JSON.parse(document.getElementById(id).textContent);

// charts
function chart(host) {
  const figure = data(host.dataset.figure);
  figure.layout.font = {color: ink()};
  Plotly.newPlot(host, figure.data, figure.layout, {responsive: true, displaylogo: false, displayModeBar: "hover"});
}
function recolour(colour) {
  document.querySelectorAll(".plot").forEach(host => Plotly.relayout(host, {"font.color": colour}));
}
dark.addEventListener("change", () => recolour(ink()));
addEventListener("beforeprint", () => recolour("#222"));
addEventListener("afterprint", () => recolour(ink()));
document.querySelectorAll(".plot").forEach(chart);

// crystals
const point = ([x, y, z]) => ({x, y, z});
const MANY = 500;  // bonds of which each is a shape of its own, that tells its length when it is pointed at
function tell(viewer, object, at, text) {
  object.told = viewer.addLabel(text, {position: at, fontSize: 13, backgroundColor: "#222", backgroundOpacity: 0.85});
}
function hush(viewer, object) {
  if (object.told) viewer.removeLabel(object.told);
  delete object.told;
}
function cellEdges(viewer, cell) {
  const shape = viewer.addShape({color: "#8a8a8a"});
  const corner = (a, b, c) => point([0, 1, 2].map(k => a * cell[0][k] + b * cell[1][k] + c * cell[2][k]));
  for (const p of [0, 1]) for (const q of [0, 1]) {
    for (const ends of [[[0, p, q], [1, p, q]], [[p, 0, q], [p, 1, q]], [[p, q, 0], [p, q, 1]]]) {
      shape.addCylinder({start: corner(...ends[0]), end: corner(...ends[1]), radius: 0.025, color: "#8a8a8a"});
    }
  }
}
function addBonds(viewer, bonds, thick) {
  const shared = bonds.length > MANY ? viewer.addShape({}) : null;
  for (const [a, b, c, d, e, f, color, text] of bonds) {
    const start = point([a, b, c]), end = point([d, e, f]);
    const stick = {start, end, radius: thick ? 0.09 : 0.05, color, fromCap: 1, toCap: 1};
    if (shared) { shared.addCylinder(stick); continue; }
    const shape = viewer.addCylinder({...stick, hoverable: true,
      hover_callback: () => { hush(viewer, shape); tell(viewer, shape, point([(a + d) / 2, (b + e) / 2, (c + f) / 2]), text); },
      unhover_callback: () => hush(viewer, shape)});
  }
}
function view(host, scene, drawn) {
  const viewer = $3Dmol.createViewer(host, {backgroundColor: "white", orthographic: true, disableFog: true, minimumZoomToDistance: 2});
  const model = viewer.addModel();
  const atoms = drawn.atoms.map(([label, x, y, z, radius, color], serial) =>
    ({elem: label.split(" ")[0], x, y, z, serial, label, style: {sphere: {radius, color}}}));
  model.addAtoms(atoms);
  viewer.addModel().addAtoms(corners(scene).map(([x, y, z], serial) => ({elem: "H", x, y, z, serial, style: {}})));
  viewer.setHoverable({model}, true,
    atom => tell(viewer, atom, atom, `${atom.label}: ${[atom.x, atom.y, atom.z].map(v => v.toFixed(3)).join(", ")} Å`),
    atom => hush(viewer, atom));
  cellEdges(viewer, drawn.cell);
  addBonds(viewer, drawn.bonds, drawn.title === "relaxed");
  const arrows = viewer.addShape({color: "#c0392b"});
  for (const [a, b, c, d, e, f] of drawn.arrows) {
    arrows.addArrow({start: point([a, b, c]), end: point([d, e, f]), radius: 0.08, radiusRatio: 2.2, color: "#c0392b"});
  }
  viewer.rotate(-78, "x");
  viewer.rotate(-20, "z");
  fit(viewer, host, scene);
  return viewer;
}
// everything that the views of a crystal hold, with radii, so that all of them have one scale and one middle
function points(scene) {
  return scene.views.flatMap(drawn => [
    ...drawn.atoms.map(atom => atom.slice(1, 5)), ...drawn.arrows.map(arrow => [...arrow.slice(3), 0]),
    ...[0, 1, 2, 3, 4, 5, 6, 7].map(n => [...[0, 1, 2].map(k =>
      (n & 1) * drawn.cell[0][k] + (n >> 1 & 1) * drawn.cell[1][k] + (n >> 2) * drawn.cell[2][k]), 0])]);
}
// px for each Å: the squares of three directions at right angles add up to twice its square, from any side
function scaleOf(viewer) {
  const [origin, ...ends] = viewer.modelToScreen([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]].map(point));
  return Math.hypot(...ends.flatMap(end => [end.x - origin.x, end.y - origin.y])) / Math.SQRT2;
}
function corners(scene) {
  const every = points(scene);
  return [Math.min, Math.max].map(end => [0, 1, 2].map(k => end(...every.map(one => one[k]))));
}
function fit(viewer, host, scene) {
  viewer.zoomTo({model: 1});  // between the corners, at a scale that heeds neither the view's form nor its side
  viewer.render();
  const [low, high] = corners(scene), every = points(scene), seen = viewer.modelToScreen(every.map(point));
  const middle = viewer.modelToScreen(point(low.map((value, k) => (value + high[k]) / 2))), scale = scaleOf(viewer);
  const span = axis => 2 * Math.max(...seen.map((one, n) => Math.abs(one[axis] - middle[axis]) + scale * every[n][3])) + 1;
  viewer.zoom(0.94 * Math.min(host.clientWidth / span("x"), host.clientHeight / span("y")));
  viewer.render();
}
function legend(scene) {
  const line = document.createElement("p");
  line.className = "legend";
  for (const [symbol, color] of Object.entries(scene.elements)) {
    const item = document.createElement("span");
    item.innerHTML = "<i></i>";
    item.firstChild.style.background = color;
    item.append(symbol);
    line.append(item);
  }
  if (scene.scale) {
    const item = document.createElement("span");
    item.innerHTML = "<i class=\"scale\"></i>";
    item.firstChild.style.background = `linear-gradient(90deg, ${scene.scale.colours.join(", ")})`;
    item.prepend(`uncertainty of bond lengths: ${scene.scale.low} Å`);
    item.append(`${scene.scale.high} Å`);
    line.append(item);
  }
  return line;
}
function open(host) {
  const scene = data(host.dataset.scene);
  const row = document.createElement("div");
  row.className = "views";
  host.append(row, legend(scene));
  const places = scene.views.map(drawn => {
    const figure = document.createElement("figure"), place = document.createElement("div");
    const caption = document.createElement("figcaption");
    caption.textContent = drawn.title;
    place.className = "view";
    figure.append(caption, place);
    row.append(figure);
    return place;
  });
  host.viewers = places.map((place, n) => view(place, scene, scene.views[n]));
  if (host.viewers.length === 2) {  // both turn together
    host.viewers[0].linkViewer(host.viewers[1]);
    host.viewers[1].linkViewer(host.viewers[0]);
  }
}
// browsers hold few drawings in three dimensions at once: those that are closed are given back
function close(host) {
  host.querySelectorAll("canvas").forEach(canvas => {
    const context = canvas.getContext("webgl2") || canvas.getContext("webgl");
    context?.getExtension("WEBGL_lose_context")?.loseContext();
  });
  host.replaceChildren();
  delete host.viewers;
}
document.querySelectorAll("details.crystal").forEach(crystal => {
  const host = crystal.querySelector(".scene");
  if (!host) return;
  const show = () => {
    if (!crystal.open) close(host);
    else if (!host.viewers) open(host);
  };
  crystal.addEventListener("toggle", show);
  show();
});

// the table
function cell(column) {
  return shown => {
    const value = shown.getValue(), text = document.createElement("span");
    if (value !== null) text.textContent = column.digits === undefined ? value : value.toFixed(column.digits);
    if (column.title === "reason" || column.title === "name") text.title = text.textContent;
    return text;
  };
}
const longest = title => Math.max(...title.split(" ").map(word => word.length));
function fillTable(host) {
  const {columns, rows} = data("crystals-data");
  const fields = columns.map((column, n) => `c${n}`);
  const at = title => fields[columns.findIndex(column => column.title === title)];
  const table = new Tabulator(host, {
    data: rows.map(row => Object.fromEntries(row.map((value, n) => [fields[n], value]))),
    columns: columns.map((column, n) => ({
      title: column.title, field: fields[n], formatter: cell(column), headerTooltip: false,
      ...(column.digits === undefined
        ? {sorter: "string", minWidth: 90, widthGrow: column.title === "reason" ? 4 : 1}
        : {sorter: "number", hozAlign: "right", sorterParams: {alignEmptyValues: "bottom"}, width: 40 + 9 * longest(column.title)}),
      ...(column.title === "reason" ? {width: 420} : {}),
      ...(column.title === "name" ? {maxInitialWidth: 220} : {}),
    })),
    layout: "fitDataFill", height: Math.min(rows.length * 30 + 90, 560), placeholder: "no crystal fits these filters",
  });
  table.on("rowClick", (event, row) => { row.getElement().classList.toggle("whole"); row.normalizeHeight(); });
  const words = document.getElementById("words"), status = document.getElementById("status");
  const count = document.getElementById("count");
  const filter = () => {
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean), texts = ["name", "formula", "reason"].map(at).filter(Boolean);
    const elements = formula => (formula || "").match(/[A-Z][a-z]?/g) || [];
    table.setFilter(row => (!status.value || row[at("status")] === status.value) && wanted.every(word =>
      texts.some(field => String(row[field] ?? "").toLowerCase().includes(word)) ||
      elements(row[at("formula")]).some(element => element.toLowerCase() === word)));
  };
  for (const name of [...new Set(rows.map(row => row[columns.findIndex(column => column.title === "status")]))].sort()) {
    status.append(new Option(name, name));
  }
  words.addEventListener("input", filter);
  status.addEventListener("change", filter);
  table.on("dataFiltered", (filters, left) => {
    count.textContent = `${left.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")}`;
  });
  document.getElementById("export").addEventListener("click", () => table.download("csv", "crystals.csv", {bom: true}));
  document.querySelectorAll("button[data-status]").forEach(button => button.addEventListener("click", () => {
    status.value = button.dataset.status;
    filter();
    document.getElementById("table").scrollIntoView();
  }));
  host.table = table;
}
fillTable(document.getElementById("crystals-table"));
