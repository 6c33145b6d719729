// Requests to the server, by URLs relative to the page.

// QueryError is a failure that a person should read: its message names what the
// server said, or that it could not be reached.
export class QueryError extends Error {}

// RefusedError is one that another key may help against.
export class RefusedError extends QueryError {}

// The key is this tab's, until it is closed: no cookie, which pages of others could have
// sent, and no part of the URL, which is passed on.
const KEY = "quipu-key";
export const key = () => sessionStorage.getItem(KEY) ?? "";
export const setKey = (text) => (text ? sessionStorage.setItem(KEY, text) : sessionStorage.removeItem(KEY));

// call asks for one path of the API and returns { data, notes }, where notes are
// the warnings and infos of the answer.
async function call(path, params, { tenant, signal, post }) {
  const headers = tenant ? { "X-Scope-OrgID": tenant } : {};
  if (key()) headers.Authorization = `Bearer ${key()}`;
  const body = new URLSearchParams(params);
  // Queries are posted: an expression may be longer than a URL may be.
  const request = post
    ? fetch(path, { method: "POST", headers, body, signal })
    : fetch(params ? `${path}?${body}` : path, { headers, signal });
  let response;
  try {
    response = await request;
  } catch (err) {
    if (err.name === "AbortError") throw err;
    throw new QueryError(`The server did not answer (${err.message}). Is it running?`);
  }
  return answer(response);
}

async function answer(response) {
  const text = await response.text();
  let parsed;
  try {
    parsed = JSON.parse(text);
  } catch {
    throw new QueryError(`The server answered ${response.status}: ${text.slice(0, 300) || response.statusText}`);
  }
  if (parsed.status !== "success") {
    if (response.status === 401 || response.status === 403) throw new RefusedError(`The server refuses this: ${parsed.error}.`);
    const type = parsed.errorType ? `${parsed.errorType}: ` : "";
    throw new QueryError(type + (parsed.error ?? `the server answered ${response.status}`));
  }
  return {
    data: parsed.data,
    notes: [
      ...(parsed.warnings ?? []).map((text) => ({ level: "warning", text })),
      ...(parsed.infos ?? []).map((text) => ({ level: "info", text })),
    ],
  };
}

const seconds = (ms) => String(ms / 1000);

// instant evaluates expr at one time.
export function instant(expr, time, options) {
  return call("api/v1/query", { query: expr, time: seconds(time) }, { ...options, post: true });
}

// range evaluates expr at start, start+step, ... up to end.
export function range(expr, { start, end, step }, options) {
  const params = { query: expr, start: seconds(start), end: seconds(end), step: seconds(step) };
  return call("api/v1/query_range", params, { ...options, post: true });
}

// metricNames lists the tenant's metrics.
export async function metricNames(options) {
  return (await call("api/v1/label/__name__/values", null, options)).data ?? [];
}

// dataRange returns { minTime, maxTime } of the tenant's data, or null without any.
export async function dataRange(options) {
  return (await call("api/v1/status/range", null, options)).data ?? null;
}
