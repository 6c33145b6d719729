// What Debian's promtool is answered.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { MINUTES, NOW, run, startFilled } from "./harness.mjs";

let server;
before(async () => (server = await startFilled()));
after(() => server.stop());

const at = new Date(NOW).toISOString();
const from = new Date(NOW - MINUTES * 60_000).toISOString();
const counts = 'sum by (page) (increase(events_total{event="view"}[10m] anchored))';

async function promtool(...args) {
  const { code, stdout, stderr } = await run("promtool", ["query", ...args]);
  assert.equal(code, 0, stderr);
  return stdout.trimEnd();
}

for (const prefix of ["", "/prometheus"]) {
  test(`promtool query instant at ${prefix || "/"}`, async () => {
    const out = await promtool("instant", "--time", at, server.url + prefix, counts);
    assert.deepEqual(out.split("\n").sort(), [`{page="/a"} => 10 @[${NOW / 1000}]`, `{page="/b"} => 20 @[${NOW / 1000}]`]);
  });
}

test("promtool query range", async () => {
  const out = await promtool("range", "--start", from, "--end", at, "--step", "1m", server.url, 'sum(increase(events_total{event="view"}[1m] anchored))');
  const values = out.split("\n").slice(1); // the first line is the series
  assert.deepEqual(values.map((line) => line.split(" ")[0]), Array(MINUTES).fill("3"), out);
});

test("promtool query series", async () => {
  const out = await promtool("series", "--match", "events_total", "--match", 'event_value{page="none"}', "--start", from, "--end", at, server.url);
  assert.deepEqual(out.split("\n").sort(), ["/a", "/b"].map((page) => `{__name__="events_total", event="view", page="${page}"}`));
});

test("promtool query labels", async () => {
  assert.equal(await promtool("labels", "--start", from, "--end", at, server.url, "page"), "/a\n/b");
});

test("promtool query instant of a query that is wrong", async () => {
  const { code, stderr } = await run("promtool", ["query", "instant", server.url, "sum("]);
  assert.notEqual(code, 0);
  assert.match(stderr, /bad_data/);
});

test("promtool check metrics reads what is federated", async () => {
  const federated = await fetch(`${server.url}/federate?match[]={__name__=~".%2B"}`).then((r) => r.text());
  assert.match(federated, /^# TYPE events_total untyped\nevents_total\{event="view",page="\/a",instance=""\} \d+ \d+\n/);
  const { code, stderr } = await run("promtool", ["check", "metrics"], federated);
  assert.notEqual(code, 1, stderr); // 3 is that there is no help
  assert.match(stderr, /^events_total no help text$/m);
});
