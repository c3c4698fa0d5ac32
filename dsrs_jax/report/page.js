"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const STEP = 100;
const DECIMAL = ["lower bound", "Neyman-Pearson", "DSRS", "gain", "as logged"];
// As the tables have it: four digits, never above what was proved.
const down = (x) => (Math.floor(x * 1e4) / 1e4).toFixed(4);
const state = { at: 0, run: 0, sort: "index", ascending: true, shown: STEP };

const cell = (row, text, kind = "td") => {
  const made = document.createElement(kind);
  if (text instanceof Node) made.append(text); else made.textContent = text;
  row.append(made);
  return made;
};
const reaches = (radius, at) => radius > 0 && radius >= at;
const best = (image) => image.DSRS ?? image["Neyman-Pearson"] ?? image["as logged"];
const columns = () => ["image", ...data.runs[state.run].columns, "certified"];

function accuracies() {
  const body = $("accuracy").tBodies[0];
  body.replaceChildren();
  for (const curve of data.curves) {
    const row = body.insertRow();
    const count = curve.radii.filter((radius) => reaches(radius, state.at)).length;
    const [low, high] = data.intervals[curve.radii.length][count];
    cell(row, curve.run, "th").scope = "row";
    cell(row, curve.method);
    cell(row, curve.radii.length);
    cell(row, count);
    cell(row, (100 * count / curve.radii.length).toFixed(1) + "%");
    cell(row, `${low}–${high}`);
  }
}

function chosen() {
  const status = $("status").value, find = $("find").value.trim();
  const images = data.runs[state.run].images.filter((image) =>
    (!status || image.status === status)
    && (!find || String(image.index) === find || String(image.label) === find)
    && (!$("reached").checked || reaches(best(image), state.at)));
  const key = (image) => state.sort === "certified" ? best(image)
    : state.sort === "image" ? image.index : image[state.sort] ?? -1;
  const sign = state.ascending ? 1 : -1;
  return images.sort((a, b) => {
    const x = key(a), y = key(b);
    return sign * (x < y ? -1 : x > y ? 1 : a.index - b.index);
  });
}

function thumbnail(place) {
  const sheet = data.runs[state.run].sheet;
  if (!sheet || place < 0) return "";
  const made = document.createElement("span"), side = sheet.side;
  const x = (place % sheet.across) * side, y = Math.floor(place / sheet.across) * side;
  // The picture itself stands once, in a rule of the page: it is large.
  made.className = `thumbnail sheet-${state.run}`;
  made.style.cssText = `width:${side}px;height:${side}px;background-position:-${x}px -${y}px`;
  return made;
}

function images() {
  const body = $("images").tBodies[0], found = chosen();
  body.replaceChildren();
  for (const image of found.slice(0, state.shown)) {
    const row = body.insertRow(), certified = reaches(best(image), state.at);
    row.className = certified ? "reached" : "";
    for (const column of columns()) {
      const value = image[column];
      if (column === "image") cell(row, thumbnail(image.place));
      else if (column === "certified") cell(row, certified ? "yes" : "no");
      else if (DECIMAL.includes(column)) {
        cell(row, value === undefined ? "" : down(value)).title = value ?? "";
      } else cell(row, value ?? "");
    }
  }
  $("count").textContent = `${Math.min(state.shown, found.length)} of ${found.length} images shown`;
  $("more").hidden = found.length <= state.shown;
  for (const button of $("images").tHead.querySelectorAll("button")) {
    const own = button.textContent === state.sort;
    button.parentNode.setAttribute("aria-sort",
      own ? (state.ascending ? "ascending" : "descending") : "none");
  }
}

function charts() {
  const ink = getComputedStyle(document.body).color;
  const layout = (title, x, y, more = {}) => ({
    title: { text: title, font: { size: 15 } }, font: { color: ink }, autosize: true,
    paper_bgcolor: "transparent", plot_bgcolor: "transparent", margin: { l: 55, r: 15, t: 45, b: 50 },
    xaxis: { title: { text: x }, rangemode: "tozero", gridcolor: "#8884" },
    yaxis: { title: { text: y }, gridcolor: "#8884",
      ...(y.includes("%") ? { range: [0, 100] } : { rangemode: "tozero" }) },
    legend: { orientation: "h", y: -0.25 }, ...more,
  });
  const options = { responsive: true, displayModeBar: false };
  const name = (one) => data.runs.length > 1 ? `${one.run}, ${one.method}` : one.method;
  Plotly.react("curves", data.curves.map((curve) => ({
    name: name(curve), x: curve.x, y: curve.y, mode: "lines", line: { shape: "vh" },
    hovertemplate: "radius %{x:.4f}: %{y:.1f}%<extra>%{fullData.name}</extra>",
  })).concat(data.attacked.map((one) => ({
    ...one, mode: "lines+markers",
    hovertemplate: "radius %{x:.4f}: %{y:.1f}%<extra>%{fullData.name}</extra>",
  }))), layout($("accuracy-heading").textContent, "radius", "images (%)", {
    shapes: [{ type: "line", x0: state.at, x1: state.at, y0: 0, y1: 1, yref: "paper",
      line: { dash: "dot", color: ink, width: 1 } }],
  }), options);
  const histogram = (id, title, x, column, nbinsx) => {
    const series = data.runs.map((run) => ({
      type: "histogram", name: run.name, opacity: 0.7, nbinsx,
      x: run.images.map((image) => image[column]).filter((value) => value !== undefined),
    })).filter((one) => new Set(one.x).size > 1);
    if (series.length) Plotly.react(id, series, layout(title, x, "images", { barmode: "overlay" }), options);
    $(id).hidden = !series.length;
  };
  histogram("gains", "Gain of DSRS's radius", "radius, less Neyman-Pearson's", "gain", 40);
  histogram("draws", "Draws of an image", "draws under P", "n", 40);
  const bounds = data.runs.filter((run) => run.bounds);
  if (bounds.length) Plotly.react("bounds", bounds.map((run) => ({
    name: run.name, x: run.bounds[0], y: run.bounds[1], mode: "lines", line: { shape: "vh" },
    hovertemplate: "%{y:.1f}% are at %{x:.4f} or above<extra>%{fullData.name}</extra>",
  })), layout("The lower bound of the probability of the label", "lower bound", "images at it or above (%)"),
  options);
  $("bounds").hidden = !bounds.length;
}

function heads() {
  const head = $("images").tHead.rows[0];
  head.replaceChildren();
  for (const column of columns()) {
    const button = document.createElement("button");
    button.type = "button"; button.textContent = column;
    button.addEventListener("click", () => {
      state.ascending = state.sort === column ? !state.ascending : ["index", "image"].includes(column);
      state.sort = column; images();
    });
    cell(head, button, "th").scope = "col";
  }
}

function line() {
  Plotly.relayout("curves", { "shapes[0].x0": state.at, "shapes[0].x1": state.at });
}

function start() {
  const slider = $("radius");
  slider.max = data.largest;
  slider.value = 0;
  slider.addEventListener("input", () => {
    state.at = Number(slider.value);
    $("at").textContent = state.at.toFixed(2);
    accuracies(); images(); line();
  });
  $("at").textContent = "0.00";
  data.runs.forEach((run, i) => $("run").add(new Option(run.name, i)));
  const statuses = () => {
    const found = [...new Set(data.runs[state.run].images.map((image) => image.status))].sort();
    $("status").replaceChildren(new Option("all", ""), ...found.filter(Boolean).map((s) => new Option(s, s)));
  };
  $("run").addEventListener("change", () => {
    state.run = Number($("run").value); state.shown = STEP; state.sort = "index";
    statuses(); heads(); images();
  });
  for (const id of ["status", "find", "reached"]) {
    $(id).addEventListener("input", () => { state.shown = STEP; images(); });
  }
  $("more").addEventListener("click", () => { state.shown += STEP; images(); });
  const means = $("means").tBodies[0];
  for (const curve of data.curves) {
    const row = means.insertRow();
    cell(row, curve.run, "th").scope = "row"; cell(row, curve.method); cell(row, curve.mean);
  }
  statuses(); heads(); accuracies(); images(); charts();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", charts);
}
start();
