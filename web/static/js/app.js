// The page: reads the state from the URL, runs the query, shows the answer. The
// URL is the only place where a change of state begins; apply() follows it.

import * as api from "./api.js";
import { renderChart } from "./chart.js";
import { byId, element } from "./dom.js";
import { EXAMPLES } from "./examples.js";
import { count } from "./format.js";
import { isTenant, newestRange, read, write } from "./state.js";
import { renderTable } from "./table.js";
import { autoStep, formatDuration, formatTime, fromField, HOUR, MINUTE, parseDuration, SECOND, toField } from "./time.js";

const STEPS_MAX = 11_000; // the server refuses more points a series
const METRICS_MAX = 500;

const page = Object.fromEntries(
  ["query-form", "expr", "run", "start", "end", "zone", "step", "tenant", "tenant-box", "key", "key-box", "key-state", "tenant-name", "messages", "empty",
    "result", "first-event", "summary", "tab-table", "tab-graph", "panel-table", "panel-graph", "examples", "metrics", "newest",
    "shift-left", "shift-right"].map((id) => [id, byId(id)]),
);

let state = read(location.hash);
let running = null; // the AbortController of the query under way
let listedTenant = null; // whose metrics the list shows

// show puts messages where they are seen, each { level, text }.
function show(messages) {
  page.messages.replaceChildren(...messages.map(({ level, text }) => element("p", { className: level }, text)));
}

// failure is what is shown of an error; one that a key may help against shows where.
const failure = (err) => {
  if (err instanceof api.RefusedError) page["key-box"].open = true;
  return failed(err);
};
const failed = (err) => [{ level: "error", text: err instanceof api.QueryError ? err.message : `This page failed: ${err.message}` }];

// go makes a new state the current one, as an entry of the browser's history.
function go(changes) {
  const hash = write({ ...state, ...changes });
  if (hash === location.hash) apply();
  else location.hash = hash;
}

// fill writes the state into the form.
function fill() {
  page.expr.value = state.expr;
  page.start.value = toField(state.start, state.zone);
  page.end.value = toField(state.end, state.zone);
  page.zone.value = state.zone;
  page.step.value = state.step;
  page.step.placeholder = `auto: ${formatDuration(autoStep(state.end - state.start))}`;
  page.tenant.value = state.tenant;
  page["tenant-name"].textContent = state.tenant || (api.key() ? "of the key" : "default");
  for (const button of document.querySelectorAll("[data-span]")) {
    button.setAttribute("aria-pressed", String(parseDuration(button.dataset.span) === state.end - state.start));
  }
  for (const name of ["table", "graph"]) {
    const on = state.tab === name;
    page[`tab-${name}`].setAttribute("aria-selected", String(on));
    page[`tab-${name}`].tabIndex = on ? 0 : -1;
    page[`panel-${name}`].hidden = !on;
  }
}

// typed returns the state that the form holds, or throws what is wrong with it.
function typed() {
  const zone = state.zone;
  // The fields show whole seconds; one that was not touched keeps its milliseconds.
  const time = (input, known) => {
    const value = fromField(input.value, zone);
    return value === Math.floor(known / SECOND) * SECOND ? known : value;
  };
  const start = time(page.start, state.start);
  const end = time(page.end, state.end);
  if (!(end > start)) throw new api.QueryError("The range must end after it starts.");
  const step = page.step.value.trim();
  if (step && parseDuration(step) === null) throw new api.QueryError(`The step ${JSON.stringify(step)} is no duration: write 30s, 5m or 1h.`);
  const tenant = page.tenant.value.trim();
  if (!isTenant(tenant)) throw new api.QueryError(`${JSON.stringify(tenant)} is no tenant id: 1 to 64 of a-z A-Z 0-9 _ . -`);
  // Another tenant's data may lie in another range: open its newest.
  const range = tenant === state.tenant ? { start, end } : { start: null, end: null };
  return { expr: page.expr.value.trim(), ...range, step, tenant };
}

// submit runs what the form holds, with changes on top of it.
function submit(changes = () => ({})) {
  if (state.start === null) {
    apply(); // the server did not say yet where its data is: ask again
    return;
  }
  try {
    const entered = typed();
    go({ ...entered, ...changes(entered) });
  } catch (err) {
    show(failure(err));
  }
}

// grid widens the range to whole steps, so that the steps of "1h" are hours.
function grid() {
  const step = parseDuration(state.step) ?? autoStep(state.end - state.start);
  const start = Math.floor(state.start / step) * step;
  const end = Math.ceil(state.end / step) * step;
  if ((end - start) / step > STEPS_MAX) {
    throw new api.QueryError(`A step of ${formatDuration(step)} over this range is more than ${STEPS_MAX} points: choose a longer step.`);
  }
  return { start, end, step };
}

// zoom shows the part of the chart that was dragged over; Back returns.
function zoom(start, end) {
  submit(() => ({ start: Math.floor(start / SECOND) * SECOND, end: Math.ceil(end / SECOND) * SECOND }));
}

// run evaluates the state's query and shows what came of it.
async function run() {
  running?.abort();
  const mine = (running = new AbortController());
  const panel = page[`panel-${state.tab}`];
  page.result.setAttribute("aria-busy", "true");
  try {
    const options = { tenant: state.tenant, signal: mine.signal };
    const began = performance.now();
    const steps = state.tab === "graph" ? grid() : null;
    const { data, notes } = steps ? await api.range(state.expr, steps, options) : await api.instant(state.expr, state.end, options);
    const took = Math.round(performance.now() - began);
    const said = steps ? renderChart(panel, data, steps, state.zone, zoom) : renderTable(panel, data, state.zone);
    const when = steps ? `every ${formatDuration(steps.step)}` : `at ${formatTime(state.end, state.zone)}`;
    page.summary.textContent = `${said}, ${when}, ${took} ms`;
    show(notes);
  } catch (err) {
    if (err.name === "AbortError") return;
    panel.replaceChildren();
    page.summary.textContent = "";
    show(failure(err));
  } finally {
    if (running === mine) page.result.removeAttribute("aria-busy");
  }
}

// listMetrics fills the list once a tenant.
async function listMetrics() {
  if (listedTenant === state.tenant) return;
  const { tenant } = state;
  const names = await api.metricNames({ tenant });
  if (tenant !== state.tenant) return;
  listedTenant = tenant;
  const items = names.slice(0, METRICS_MAX).map((name) => link(name, () => submit(() => ({ expr: name }))));
  if (names.length === 0) items.push(element("li", { className: "nothing" }, "none yet"));
  if (names.length > METRICS_MAX) items.push(element("li", {}, `and ${count(names.length - METRICS_MAX, "more", "more")}`));
  page.metrics.replaceChildren(...items);
}

function link(text, onClick, title = "") {
  const button = element("button", { type: "button", title }, text);
  button.addEventListener("click", onClick);
  return element("li", {}, button);
}

function listExamples() {
  page.examples.replaceChildren(
    ...EXAMPLES.map(({ title, tab, step = "", expr }) =>
      link(title, () => submit(({ start, end }) => ({ tab, step, expr: expr.replace("RANGE", formatDuration(end - start)) })), expr)),
  );
}

// newest moves to the newest data and returns the range, or shows how to post a
// first event and returns null.
async function newest() {
  const known = await api.dataRange({ tenant: state.tenant });
  page.empty.hidden = known !== null;
  page.result.hidden = known === null;
  if (known) return newestRange(known);
  const url = new URL("api/v1/events", document.baseURI);
  const event = { data: { event: "signup", user_id: "ab11", further_data: { plan: "free", country: "DE" } } };
  const key = api.key() ? ' -H "Authorization: Bearer $QUIPU_TOKEN"' : "";
  const tenant = state.tenant ? ` -H 'X-Scope-OrgID: ${state.tenant}'` : "";
  page["first-event"].textContent = `curl -X POST '${url}'${key}${tenant} \\\n  -d '${JSON.stringify(event)}'`;
  return null;
}

// open gives a page without a range one, that of the newest data, and returns
// whether there is any.
async function open(mine) {
  const found = await newest();
  if (state !== mine) return false;
  const end = Math.ceil(Date.now() / MINUTE) * MINUTE;
  Object.assign(state, found ?? { start: end - HOUR, end });
  if (state.expr === "" && found) {
    const { expr, tab, step } = EXAMPLES[0];
    Object.assign(state, { expr, tab, step });
  }
  history.replaceState(null, "", write(state));
  return found !== null;
}

// apply makes the page show what the URL says. Whoever finds after waiting that
// state is not the one it began with leaves the page to who replaced it.
async function apply() {
  const mine = (state = read(location.hash));
  let found = true;
  try {
    if (state.start === null) found = await open(mine);
    if (state !== mine) return;
    fill();
    if (page.examples.childElementCount === 0) listExamples();
    await listMetrics();
  } catch (err) {
    if (state === mine) show(failure(err));
    return;
  }
  if (state !== mine) return;
  show([]);
  if (state.expr === "" || !found) return;
  page.empty.hidden = true;
  page.result.hidden = false;
  await run();
}

function listen() {
  window.addEventListener("hashchange", apply);
  page["query-form"].addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  page.key.addEventListener("keydown", (event) => event.key === "Enter" && page.key.blur());
  page.key.addEventListener("change", () => {
    api.setKey(page.key.value.trim());
    showKey();
    page["key-box"].open = false;
    listedTenant = null; // the key may be of another tenant
    apply();
  });
  page.expr.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    submit();
  });
  for (const button of document.querySelectorAll("[data-span]")) {
    button.addEventListener("click", () => submit(({ end }) => ({ start: end - parseDuration(button.dataset.span) })));
  }
  const shift = (sign) => () => submit(({ start, end }) => {
    const by = (sign * (end - start)) / 2;
    return { start: start + by, end: end + by };
  });
  page["shift-left"].addEventListener("click", shift(-1));
  page["shift-right"].addEventListener("click", shift(1));
  page.newest.addEventListener("click", () =>
    newest().then((range) => {
      listedTenant = null; // new events may have brought new metrics
      if (range) submit(() => range);
    }, (err) => show(failure(err))));
  page.zone.addEventListener("change", () => submit(() => ({ zone: page.zone.value })));
  for (const name of ["table", "graph"]) {
    const tab = page[`tab-${name}`];
    const other = name === "table" ? "graph" : "table";
    tab.addEventListener("click", () => submit(() => ({ tab: name })));
    tab.addEventListener("keydown", (event) => {
      if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
      page[`tab-${other}`].focus();
      submit(() => ({ tab: other }));
    });
  }
  // A chart takes its colours when it is drawn.
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", apply);
}

// showKey says whether there is a key; emptying its field forgets it.
function showKey() {
  page["key-state"].textContent = api.key() ? "set" : "none";
  page.key.value = api.key();
}

listen();
showKey();
apply();
