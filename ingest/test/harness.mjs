// The server as the tests of clients see it: through a proxy that fails as networks do
// and names the tenant, which clients of trackers cannot.

import assert from "node:assert/strict";
import { once } from "node:events";
import http from "node:http";
import { startServer } from "../../internal/testserver/server.mjs";

const HOUR = 3_600_000;

// PIXELS are the paths where a GET is an event.
const PIXELS = new Set(["/i", "/g/collect", "/matomo.php", "/track", "/import", "/engage"]);

// HOUR_END is the end of a whole hour that the tests' events are in, EVENT_TIME the time
// of most of them, 5 s into a window of 15 s, and WINDOW_END the end of that window.
export const HOUR_END = Math.floor(Date.now() / HOUR) * HOUR - HOUR;
export const EVENT_TIME = HOUR_END - HOUR / 2 + 5_000;
export const WINDOW_END = EVENT_TIME + 10_000;

// awaited calls get until check holds of what it returns, and returns that.
export async function awaited(get, check, timeout = 10_000) {
  for (const deadline = Date.now() + timeout; ; await new Promise((resume) => setTimeout(resume, 20))) {
    const got = await get();
    if (check(got)) return got;
    if (Date.now() > deadline) throw new Error(`still ${JSON.stringify(got)} after ${timeout} ms`);
  }
}

// Quipu is a server of a test's own.
class Quipu {
  // url is where clients post to.
  url;
  // tenant is whose all requests are.
  tenant = "default";
  // requests are those that had events, each with the status of its answer.
  requests = [];
  // faults are taken by those that follow, one each: { status, headers } is the
  // answer of a proxy, "lost" one of the server that does not arrive.
  faults = [];

  #server;
  #proxy;

  async start() {
    this.#server = await startServer();
    this.#proxy = http.createServer((request, response) => this.#forward(request, response));
    this.#proxy.listen(0, "127.0.0.1");
    await once(this.#proxy, "listening");
    this.url = `http://127.0.0.1:${this.#proxy.address().port}`;
    return this;
  }

  async stop() {
    this.#proxy.closeAllConnections();
    this.#proxy.close();
    await once(this.#proxy, "close");
    await this.#server.stop();
  }

  // begin makes what follows a tenant's, of whom nothing was requested yet.
  begin(tenant) {
    this.tenant = tenant;
    this.requests.length = 0;
    this.faults.length = 0;
  }

  async #forward(request, response) {
    const { method, url: path } = request;
    const parts = [];
    for await (const part of request) parts.push(part);
    const seen = { method, path, headers: request.headers, body: Buffer.concat(parts), status: 0 };
    const hasEvents = method === "POST" || (method === "GET" && PIXELS.has(path.split("?")[0]));
    const fault = hasEvents ? this.faults.shift() : undefined;
    if (hasEvents) this.requests.push(seen);
    if (fault?.status) {
      seen.status = fault.status;
      return response.writeHead(fault.status, fault.headers).end("the proxy says so");
    }
    const headers = { ...request.headers, "x-scope-orgid": this.tenant };
    const forward = http.request(this.#server.url + path, { method, headers });
    forward.on("error", (err) => response.destroy(err));
    forward.end(seen.body);
    const [answer] = await once(forward, "response");
    seen.status = answer.statusCode;
    if (fault === "lost") {
      answer.resume();
      await once(answer, "end");
      return response.destroy();
    }
    response.writeHead(answer.statusCode, answer.headers);
    answer.pipe(response);
  }

  // again sends what was sent with a request, and returns the status.
  async again({ method, path, headers, body }) {
    const kept = Object.entries(headers).filter(([name]) => name.startsWith("content-") && name !== "content-length");
    return (await fetch(this.url + path, { method, headers: Object.fromEntries(kept), body: method === "POST" ? body : undefined })).status;
  }

  // statuses are those of the requests so far.
  statuses() {
    return this.requests.map((request) => request.status);
  }

  // query returns the answer of PromQL at a time in milliseconds: the values of the
  // series by the values of their labels, joined by a space.
  async query(expr, time = HOUR_END) {
    const response = await fetch(`${this.#server.url}/api/v1/query`, {
      method: "POST",
      headers: { "X-Scope-OrgID": this.tenant },
      body: new URLSearchParams({ query: expr, time: time / 1000 }),
    });
    const answer = await response.json();
    assert.equal(answer.status, "success", `${expr}: ${answer.error}`);
    return Object.fromEntries(answer.data.result.map(({ metric, value }) => [Object.values(metric).join(" "), Number(value[1])]));
  }

  // verdicts returns how many of the tenant's events ended in each verdict.
  async verdicts() {
    const counts = { accepted: 0, duplicate: 0, filtered: 0, rejected: 0 };
    const metrics = await (await fetch(`${this.#server.url}/metrics`)).text();
    for (const [, tenant, verdict, n] of metrics.matchAll(/^quipu_ingest_events_total\{.*tenant="(.*)",verdict="(\w+)"\} (\S+)$/gm)) {
      if (tenant === this.tenant) counts[verdict] += Number(n);
    }
    return counts;
  }

  // moved calls action, which sends so many events, and returns the verdicts that they
  // ended in, each in one.
  async moved(sent, action) {
    const before = await this.verdicts();
    await action();
    const after = await this.verdicts();
    const grown = Object.entries(after).map(([verdict, n]) => [verdict, n - before[verdict]]).filter(([, n]) => n !== 0);
    assert.equal(grown.reduce((sum, [, n]) => sum + n, 0), sent, `the verdicts of ${sent} events: ${JSON.stringify(grown)}`);
    return Object.fromEntries(grown);
  }
}

// startQuipu starts a server, which the caller stops.
export const startQuipu = () => new Quipu().start();
