// The state of the page is what its URL says after "#", so that a link shows
// another person the same query over the same range.

import { HOUR } from "./time.js";

// defaults returns the state of a page opened without a link.
export function defaults() {
  return { expr: "", tab: "table", start: null, end: null, step: "", zone: "utc", tenant: "" };
}

const TENANT = /^[a-zA-Z0-9_.-]{1,64}$/;

// isTenant reports whether text is a tenant's id, or empty for the default one.
export const isTenant = (text) => text === "" || (TENANT.test(text) && text !== "." && text !== "..");

// write returns the fragment that read turns back into the same state.
export function write(state) {
  const params = new URLSearchParams();
  if (state.expr) params.set("expr", state.expr);
  params.set("tab", state.tab);
  if (state.start !== null) {
    params.set("start", new Date(state.start).toISOString());
    params.set("end", new Date(state.end).toISOString());
  }
  if (state.step) params.set("step", state.step);
  if (state.zone !== "utc") params.set("zone", state.zone);
  if (state.tenant) params.set("tenant", state.tenant);
  return "#" + params.toString();
}

// read takes what is valid from a fragment; start and end are null unless both
// are there.
export function read(hash) {
  const params = new URLSearchParams(hash.replace(/^#/, ""));
  const state = defaults();
  state.expr = params.get("expr") ?? "";
  state.tab = params.get("tab") === "graph" ? "graph" : "table";
  state.step = params.get("step") ?? "";
  state.zone = params.get("zone") === "local" ? "local" : "utc";
  const tenant = params.get("tenant") ?? "";
  if (isTenant(tenant)) state.tenant = tenant;
  const start = Date.parse(params.get("start") ?? "");
  const end = Date.parse(params.get("end") ?? "");
  if (end > start) Object.assign(state, { start, end });
  return state;
}

const SPAN_MIN = HOUR;
const SPAN_MAX = 7 * 24 * HOUR;
const ALIGN = 60_000;

// newestRange covers the data from minTime to maxTime, at most its last week and
// at least an hour, on whole minutes.
export function newestRange({ minTime, maxTime }) {
  const end = Math.ceil(maxTime / ALIGN) * ALIGN;
  const span = Math.min(Math.max(end - minTime, SPAN_MIN), SPAN_MAX);
  return { start: Math.floor((end - span) / ALIGN) * ALIGN, end };
}
