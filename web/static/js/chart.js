// The result of a range query as a chart.
/* global uPlot */

import { element } from "./dom.js";
import { axisValue, count, legendNames, sampleValue } from "./format.js";
import { emptyResult } from "./table.js";
import { formatTime } from "./time.js";

const SERIES_MAX = 30;
const HEIGHT = 340;
const COLORS = ["#3b7dd8", "#e0602f", "#2e9e5b", "#c2a11d", "#9a5fd0", "#21a3b5", "#d64b7f", "#8a8f98", "#7fa32a", "#a8683f"];

// current is the chart on the page, if any; a new one replaces it.
let current = null;

// renderChart draws the matrix into panel and returns a one-line summary of it.
// Steps without a value are gaps: no line is drawn across them. Dragging over a
// stretch of time calls onSelect(start, end).
export function renderChart(panel, { result }, { start, end, step }, zone, onSelect) {
  clear();
  const drawable = result.filter((series) => series.values?.length > 0);
  const histograms = result.length - drawable.length;
  const note = histograms > 0 ? `, ${count(histograms, "histogram")} not drawn` : "";
  if (drawable.length === 0) {
    panel.replaceChildren(histograms > 0 ? histogramsOnly() : emptyResult());
    return `nothing to draw${note}`;
  }
  const shown = drawable.slice(0, SERIES_MAX);
  const names = legendNames(shown.map(({ metric }) => metric));
  const data = columns(shown, { start, end, step });
  const box = element("div", { className: "chart" });
  panel.replaceChildren(box);
  current = { plot: new uPlot(options(box, names, zone, onSelect), data, box), resize: new ResizeObserver(() => fit(box)) };
  current.resize.observe(panel);
  const some = shown.length < drawable.length ? `the first ${shown.length} of ` : "";
  return `${some}${count(drawable.length, "series", "series")}${note}`;
}

function histogramsOnly() {
  return element("p", { className: "nothing" }, "Histograms are not drawn. Draw their counts or quantiles, for example histogram_quantile(0.95, rate(event_value[1h])).");
}

function clear() {
  if (!current) return;
  current.resize.disconnect();
  current.plot.destroy();
  current = null;
}

function fit(box) {
  if (box.clientWidth > 0) current?.plot.setSize({ width: box.clientWidth, height: HEIGHT });
}

// columns lays the samples of all series on one axis of steps; null is no sample.
function columns(series, { start, end, step }) {
  const length = Math.floor((end - start) / step) + 1;
  const axis = Array.from({ length }, (_, i) => (start + i * step) / 1000);
  const rows = series.map(({ values }) => {
    const row = new Array(length).fill(null);
    for (const [time, text] of values) {
      const value = Number(text);
      row[Math.round((time * 1000 - start) / step)] = Number.isFinite(value) ? value : null;
    }
    return row;
  });
  return [axis, ...rows];
}

// alone returns the points that no line reaches because both neighbours are gaps.
function alone(plot, seriesIndex, showAll) {
  if (showAll) return null;
  const row = plot.data[seriesIndex];
  const found = [];
  row.forEach((value, i) => {
    if (value !== null && (row[i - 1] ?? null) === null && (row[i + 1] ?? null) === null) found.push(i);
  });
  return found;
}

// TIME_TICKS are uPlot's rows of [least seconds between ticks, text, then what is
// added where the year, month, day, hour, minute, second changes, mode]; 1 appends.
const TIME_TICKS = [
  [86400, "{MM}-{DD}", "\n{YYYY}", null, null, null, null, null, 1],
  [60, "{HH}:{mm}", "\n{YYYY}-{MM}-{DD}", null, "\n{MM}-{DD}", null, null, null, 1],
  [1, "{HH}:{mm}:{ss}", "\n{YYYY}-{MM}-{DD}", null, "\n{MM}-{DD}", null, null, null, 1],
];

function options(box, names, zone, onSelect) {
  const style = getComputedStyle(document.documentElement);
  const ink = style.getPropertyValue("--ink-soft").trim();
  const grid = style.getPropertyValue("--line").trim();
  const axis = { stroke: ink, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid, width: 1 } };
  return {
    width: box.clientWidth || 600,
    height: HEIGHT,
    tzDate: zone === "utc" ? (ts) => uPlot.tzDate(new Date(ts * 1000), "Etc/UTC") : undefined,
    scales: { y: { range: (_, low, high) => yRange(low, high) } },
    axes: [{ ...axis, values: TIME_TICKS }, { ...axis, size: 64, values: (_, splits) => splits.map((v) => (v === null ? "" : axisValue(v))) }],
    series: [
      { label: "time", value: (_, ts) => (ts === null ? "" : formatTime(ts * 1000, zone)) },
      ...names.map((label, i) => ({
        label,
        stroke: COLORS[i % COLORS.length],
        width: 1.5,
        spanGaps: false,
        points: { size: 5, filter: alone },
        value: (_, v) => (v === null || v === undefined ? "" : sampleValue(String(v))),
      })),
    ],
    cursor: { drag: { x: true, y: false, setScale: false }, focus: { prox: 24 } },
    hooks: { setSelect: [(plot) => selected(plot, onSelect)] },
    focus: { alpha: 0.35 },
    plugins: [tooltip(names, zone)],
  };
}

function selected(plot, onSelect) {
  const { left, width } = plot.select;
  if (width > 4) onSelect(plot.posToVal(left, "x") * 1000, plot.posToVal(left + width, "x") * 1000);
}

// yRange starts at zero unless a value is negative: counts are compared by length.
function yRange(low, high) {
  if (low === null || high === null) return [0, 1];
  const top = high > 0 ? high * 1.08 : low < 0 ? 0 : 1;
  return [low < 0 ? low * 1.08 : 0, top];
}

// tooltip names the series nearest to the pointer, and its value.
function tooltip(names, zone) {
  const box = element("div", { className: "tooltip", hidden: true });
  const nearest = (plot) => {
    const { idx, top } = plot.cursor;
    let best = null;
    for (let s = 1; s <= names.length; s++) {
      const value = plot.data[s][idx];
      if (value === null || value === undefined || !plot.series[s].show) continue;
      const distance = Math.abs(plot.valToPos(value, "y") - top);
      if (best === null || distance < best.distance) best = { s, value, distance };
    }
    return best;
  };
  return {
    hooks: {
      init: (plot) => plot.over.append(box),
      setCursor: (plot) => {
        const { idx, left } = plot.cursor;
        const found = idx === null || idx === undefined || left < 0 ? null : nearest(plot);
        box.hidden = found === null;
        if (found === null) return;
        const marker = element("span", { className: "marker" });
        marker.style.background = COLORS[(found.s - 1) % COLORS.length];
        box.replaceChildren(
          element("div", {}, formatTime(plot.data[0][idx] * 1000, zone)),
          element("div", {}, marker, `${names[found.s - 1]}: `, element("b", {}, sampleValue(String(found.value)))),
        );
        const x = Math.round(plot.valToPos(plot.data[0][idx], "x"));
        const y = Math.round(plot.valToPos(found.value, "y"));
        const flip = x > plot.over.clientWidth / 2;
        box.style.transform = `translate(${x}px, ${y}px) translate(${flip ? "calc(-100% - 12px)" : "12px"}, -50%)`;
      },
    },
  };
}
