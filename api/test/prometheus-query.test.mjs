// What the npm package prometheus-query is answered, method by method.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { PrometheusDriver } from "prometheus-query";
import { MINUTES, NOW, TENANT, startFilled } from "./harness.mjs";

let server;
const clients = {};
before(async () => {
  server = await startFilled();
  const headers = { "X-Scope-OrgID": TENANT };
  clients.get = new PrometheusDriver({ endpoint: server.url, headers });
  clients.post = new PrometheusDriver({ endpoint: server.url, baseURL: "/prometheus/api/v1", headers, preferPost: true });
  clients.nobody = new PrometheusDriver({ endpoint: server.url, headers: { "X-Scope-OrgID": "nobody" } });
});
after(() => server.stop());

const now = new Date(NOW);
const start = new Date(NOW - MINUTES * 60_000);
const views = ["events_total"];
const counts = 'sum by (page) (increase(events_total{event="view"}[10m] anchored))';

// called are the methods that a test calls; the last test has all others fail.
const called = new Set(["constructor"]);
const call = (client, method, ...args) => {
  called.add(method);
  return clients[client][method](...args);
};

for (const by of ["get", "post"]) {
  test(`instantQuery by ${by}`, async () => {
    const { resultType, result } = await call(by, "instantQuery", counts, now);
    assert.equal(resultType, "vector");
    const byPage = Object.fromEntries(result.map((s) => [s.metric.labels.page, s.value.value]));
    assert.deepEqual(byPage, { "/a": 10, "/b": 20 });
    assert.equal(+result[0].value.time, NOW);
  });

  test(`rangeQuery by ${by}`, async () => {
    const { result } = await call(by, "rangeQuery", 'sum(increase(events_total{event="view"}[1m] anchored))', start, now, 60);
    assert.deepEqual(result[0].values.map((v) => v.value), Array(MINUTES).fill(3));
  });

  test(`series, labelNames and labelValues by ${by}`, async () => {
    const series = await call(by, "series", views, start, now);
    assert.deepEqual(series.map((s) => [s.name, s.labels.page]), [["events_total", "/a"], ["events_total", "/b"]]);
    assert.deepEqual(await call(by, "labelNames", views, start, now), ["__name__", "event", "page"]);
    assert.deepEqual(await call("get", "labelValues", "page", views, start, now), ["/a", "/b"]);
  });
}

test("a query that is wrong is an error of its kind", async () => {
  await assert.rejects(call("get", "instantQuery", "sum("), ({ httpStatus, prometheus }) => httpStatus === 400 && prometheus.errorType === "bad_data");
});

test("metadata, targets, rules and alerts", async () => {
  const { events_total } = await call("get", "metadata", "events_total");
  assert.equal(events_total[0].type, "counter");
  assert.deepEqual(await call("get", "targets"), { activeTargets: [], droppedTargets: [] });
  assert.deepEqual(await call("get", "targetsMetadata", '{job="none"}'), []);
  assert.deepEqual(await call("get", "rules"), []);
  assert.deepEqual(await call("get", "alerts"), []);
  assert.deepEqual((await call("get", "alertmanagers")).activeAlertmanagers, []);
});

test("status", async () => {
  assert.equal(typeof (await call("get", "status")).yaml, "string");
  assert.deepEqual(await call("get", "statusFlags"), {});
  assert.equal((await call("get", "statusRuntimeInfo")).reloadConfigSuccess, true);
  assert.equal((await call("get", "statusBuildinfo")).version, "3.16.0");
  const stats = await call("get", "statusTSDB");
  assert.deepEqual(stats.seriesCountByMetricName.find((s) => s.name === "events_total"), { name: "events_total", value: 2 });
  assert.equal((await call("nobody", "statusTSDB")).headStats.numSeries, 0);
});

test("administration", async () => {
  // Where they are errors they are Prometheus's, and never about another tenant's data.
  for (const [method, ...args] of [["adminDeleteSeries", ["none"], start, now], ["adminCleanTombstones"], ["adminSnapshot", true]]) {
    await call("nobody", method, ...args).catch((err) => assert.equal(err.status, "error", method));
  }
  assert.equal((await call("get", "series", views, start, now)).length, 2);
});

test("every method of the client was called", () => {
  const own = /^(request|handleResponse|formatTimeToPrometheus|listifyIfNeeded|formatPromQlParams)$/;
  const methods = Object.getOwnPropertyNames(PrometheusDriver.prototype).filter((m) => !own.test(m));
  assert.deepEqual(methods.filter((m) => !called.has(m)), []);
});
