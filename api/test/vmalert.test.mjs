// Debian's vmalert, of VictoriaMetrics, with Quipu as its source of data: an alert fires
// and reaches who is notified.

import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import http from "node:http";
import { once } from "node:events";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, test } from "node:test";
import { awaited, freePort, start, startFilled } from "./harness.mjs";

const RULES = `
groups:
  - name: views
    interval: 1s
    rules:
      - alert: ManyViews
        expr: 'sum by (page) (increase(events_total{event="view"}[30m])) > 15'
        labels: {severity: page}
        annotations: {summary: "too many views of {{ $labels.page }}"}
      - alert: NoViews
        expr: 'absent(events_total{event="view"})'
`;

let server, notified, alertmanager, vmalert, dir, url;
before(async () => {
  server = await startFilled();
  notified = [];
  alertmanager = http.createServer(async (request, response) => {
    const parts = [];
    for await (const part of request) parts.push(part);
    notified.push(...JSON.parse(Buffer.concat(parts)));
    response.end();
  });
  alertmanager.listen(0, "127.0.0.1");
  await once(alertmanager, "listening");
  dir = await mkdtemp(path.join(tmpdir(), "quipu-vmalert-"));
  await writeFile(path.join(dir, "rules.yml"), RULES);
  const listen = `127.0.0.1:${await freePort()}`;
  url = `http://${listen}`;
  vmalert = start("vmalert", [
    `-rule=${path.join(dir, "rules.yml")}`, `-datasource.url=${server.url}`, `-httpListenAddr=${listen}`,
    `-notifier.url=http://127.0.0.1:${alertmanager.address().port}`,
  ]);
});
after(async () => {
  await vmalert?.stop();
  alertmanager.closeAllConnections();
  alertmanager.close();
  await server.stop();
  await rm(dir, { recursive: true });
});

test("an alert over Quipu fires", async () => {
  const fired = await awaited(async () => {
    const response = await fetch(`${url}/api/v1/alerts`).catch(() => null);
    const body = response?.ok ? await response.json() : undefined;
    return body?.data.alerts?.find((alert) => alert.state === "firing");
  }, vmalert.log);
  assert.equal(fired.name, "ManyViews");
  assert.equal(fired.labels.page, "/b");
  assert.equal(fired.labels.severity, "page");
  assert.ok(Number(fired.value) > 15 && Number(fired.value) < 25, fired.value); // 20, extrapolated
});

test("and reaches who is notified, alone", async () => {
  const sent = await awaited(() => notified[0], vmalert.log);
  assert.equal(sent.labels.alertname, "ManyViews");
  assert.equal(sent.annotations.summary, "too many views of /b");
  assert.deepEqual([...new Set(notified.map((alert) => alert.labels.alertname))], ["ManyViews"]);
});
