// The result of an instant query as a table.

import { element } from "./dom.js";
import { count, sampleValue, seriesName } from "./format.js";
import { formatTime } from "./time.js";

const ROWS_MAX = 1000;
const LABEL_COLUMNS_MAX = 8;
const POINTS_MAX = 50;

// renderTable puts the result into panel and returns a one-line summary of it.
export function renderTable(panel, { resultType, result }, zone) {
  switch (resultType) {
    case "vector":
      return renderVector(panel, result);
    case "matrix":
      return renderMatrix(panel, result, zone);
    default: // scalar, string: [time, text]
      panel.replaceChildren(element("p", { className: "single" }, resultType === "scalar" ? sampleValue(result[1]) : result[1]));
      return resultType;
  }
}

function renderVector(panel, result) {
  if (result.length === 0) {
    panel.replaceChildren(emptyResult());
    return "no series";
  }
  const rows = result.map((series) => ({ labels: series.metric, text: series.value?.[1], histogram: series.histogram?.[1] }));
  const names = [...new Set(rows.flatMap((row) => Object.keys(row.labels)))].sort(byLabelName);
  const columns = names.length <= LABEL_COLUMNS_MAX ? names.map(labelColumn) : [seriesColumn()];
  const body = element("tbody");
  const head = element("tr");
  const show = (ordered) => body.replaceChildren(...ordered.slice(0, ROWS_MAX).map((row) => vectorRow(row, columns)));
  const all = [...columns, valueColumn()];
  all.forEach((column) => head.append(sortHeader(column, rows, head, show)));
  show(rows);
  panel.replaceChildren(element("div", { className: "scroll" }, element("table", {}, element("thead", {}, head), body)));
  return rows.length > ROWS_MAX ? `the first ${ROWS_MAX} of ${count(rows.length, "series", "series")}` : count(rows.length, "series", "series");
}

const byLabelName = (a, b) => (b === "__name__") - (a === "__name__") || (a < b ? -1 : 1);

const byText = (of) => (a, b) => of(a).localeCompare(of(b), "en", { numeric: true });

function labelColumn(name) {
  const of = (row) => row.labels[name] ?? "";
  return { title: name === "__name__" ? "metric" : name, text: of, compare: byText(of) };
}

function seriesColumn() {
  const of = (row) => seriesName(row.labels);
  return { title: "series", text: of, compare: byText(of) };
}

const numberOf = (row) => Number(row.text ?? row.histogram?.count ?? NaN);

function valueColumn() {
  return { title: "value", number: true, compare: (a, b) => numberOf(a) - numberOf(b) };
}

// sortHeader is a column's title, a button that orders the rows by it: numbers
// from the largest, text from the first; again to turn it round.
function sortHeader(column, rows, head, show) {
  const header = element("th", { scope: "col", className: column.number ? "number" : "" });
  const button = element("button", { type: "button", title: `Sort by ${column.title}` }, column.title);
  button.addEventListener("click", () => {
    const first = column.number ? "descending" : "ascending";
    const second = column.number ? "ascending" : "descending";
    const order = header.getAttribute("aria-sort") === first ? second : first;
    for (const other of head.children) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    show([...rows].sort((a, b) => sign * column.compare(a, b)));
  });
  header.append(button);
  return header;
}

function vectorRow(row, columns) {
  const cells = columns.map((column) => element("td", {}, column.text(row)));
  const value = row.histogram ? histogramCell(row.histogram) : element("td", { className: "number", title: row.text }, sampleValue(row.text));
  return element("tr", {}, ...cells, value);
}

function histogramCell(histogram) {
  const title = `count ${histogram.count}, sum ${sampleValue(histogram.sum)}`;
  const lines = (histogram.buckets ?? []).map(([kind, low, high, n]) => {
    const open = kind === 1 || kind === 2 ? "(" : "[";
    const close = kind === 0 || kind === 2 ? ")" : "]";
    return element("li", {}, `${open}${sampleValue(low)}, ${sampleValue(high)}${close}: ${sampleValue(n)}`);
  });
  return element("td", { className: "number" }, element("details", {}, element("summary", {}, title), element("ul", {}, ...lines)));
}

function renderMatrix(panel, result, zone) {
  if (result.length === 0) {
    panel.replaceChildren(emptyResult());
    return "no series";
  }
  const rows = result.slice(0, ROWS_MAX).map((series) => {
    const points = [...(series.values ?? []), ...(series.histograms ?? [])];
    const lines = points.slice(-POINTS_MAX).map(([time, value]) => {
      const text = typeof value === "string" ? sampleValue(value) : `count ${value.count}, sum ${sampleValue(value.sum)}`;
      return element("li", {}, element("time", {}, formatTime(time * 1000, zone)), " ", text);
    });
    const left = points.length - lines.length;
    if (left > 0) lines.unshift(element("li", {}, `${count(left, "earlier sample")} not shown`));
    return element("tr", {}, element("td", {}, seriesName(series.metric)), element("td", {}, element("ul", { className: "points" }, ...lines)));
  });
  const head = element("tr", {}, element("th", { scope: "col" }, "series"), element("th", { scope: "col" }, "samples"));
  panel.replaceChildren(element("div", { className: "scroll" }, element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows))));
  return rows.length < result.length
    ? `the first ${ROWS_MAX} of ${count(result.length, "series", "series")}`
    : count(result.length, "series", "series");
}

export function emptyResult() {
  return element("p", { className: "nothing" }, "The query matches no data here. Try an earlier or longer range, or a metric from the list.");
}
