// PostHog's capture API, by its libraries for servers and for browsers.

import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";
import { gzipSync } from "node:zlib";
import { PostHog } from "posthog-node";
import { startSite } from "./browser.mjs";
import { EVENT_TIME, WINDOW_END, awaited, startQuipu } from "./harness.mjs";

let quipu, site, context;

before(async () => {
  quipu = await startQuipu();
  site = await startSite();
});

after(async () => {
  await site?.stop();
  await quipu?.stop();
});

afterEach(() => context?.close());

// send sends what calls does with a client, in one batch, and returns the errors that
// the library told.
async function send(calls) {
  const client = new PostHog("key", { host: quipu.url, flushAt: 100, fetchRetryDelay: 50 });
  const errors = [];
  client.on("error", (error) => errors.push(error));
  calls(client);
  await client.flush().catch((error) => errors.includes(error) || errors.push(error));
  await client.shutdown();
  return errors;
}

const uuid = (i) => `0190d4c0-0000-7000-8000-00000000000${i}`;

const at = (i, message) => ({ timestamp: new Date(EVENT_TIME + i), uuid: uuid(i), ...message });

const VIEW = { $current_url: "https://shop.example/pricing?plan=pro", $pathname: "/pricing", $referrer: "https://search.example/?q=shop", $browser: "Firefox", $os: "Linux", utm_source: "mail" };

// everyKind sends an event by each method that sends one.
function everyKind(client) {
  client.capture(at(0, { distinctId: "u1", event: "$pageview", properties: VIEW }));
  client.capture(at(1, { distinctId: "u1", event: "order", properties: { plan: "pro", amount: 9.5 } }));
  client.capture(at(2, { distinctId: "u2", event: "order", properties: { plan: "pro", amount: 20 }, groups: { company: "c1" } }));
  client.identify(at(3, { distinctId: "u2", properties: { plan: "pro" } }));
  client.alias(at(4, { distinctId: "u2", alias: "a1" }));
  client.groupIdentify(at(5, { distinctId: "u2", groupType: "company", groupKey: "c1", properties: { plan: "team" } }));
}

const increase = (selector = "", range = "1h") => `increase(events_total${selector}[${range}] anchored)`;

// expectEveryKind checks what is counted of everyKind sent once. The library gives the
// last three no time but the present.
async function expectEveryKind() {
  assert.deepEqual(await quipu.query(`sum by (browser, event, os, page, plan, referrer, utm_source) (${increase()})`), {
    "Firefox $pageview Linux /pricing search.example mail": 1,
    "order pro": 2,
  });
  assert.deepEqual(await quipu.query(`sum by (event) (${increase('{event=~"[$][icg].*"}')})`, Date.now()), {
    $identify: 1, $create_alias: 1, $groupidentify: 1,
  });
  assert.deepEqual(await quipu.query("sum by (field) (histogram_sum(increase(event_value[1h] anchored)))"), { amount: 29.5 });
  assert.deepEqual(await quipu.query('count_distinct(event_users[1h], "event")'), { $pageview: 1, order: 2 });
  assert.deepEqual(await quipu.query(`sum(${increase("", "15s")})`, WINDOW_END), { "": 3 });
  assert.deepEqual(await quipu.query(`sum(${increase()})`, WINDOW_END - 15_000), { "": 0 });
}

test("posthog-node: events by every method are counted, with their labels, users and times", async () => {
  quipu.begin("node");
  const verdicts = await quipu.moved(6, async () => assert.deepEqual(await send(everyKind), []));
  assert.deepEqual(verdicts, { accepted: 6 });
  assert.deepEqual(quipu.requests.map((r) => [r.path, r.status]), [["/batch/", 200]]);
  await expectEveryKind();
  assert.deepEqual(await quipu.moved(6, () => quipu.again(quipu.requests[0])), { duplicate: 6 });
  await expectEveryKind();
});

test("posthog-node: events that are captured again with their uuids count nothing more", async () => {
  quipu.begin("node-again");
  const capture = (client) => [0, 1, 2].forEach((i) => client.capture(at(i, { distinctId: `u${i}`, event: "order" })));
  const verdicts = await quipu.moved(6, async () => {
    assert.deepEqual(await send(capture), []);
    assert.deepEqual(await send(capture), []);
  });
  assert.deepEqual(verdicts, { accepted: 3, duplicate: 3 });
  assert.deepEqual(await quipu.query(`sum by (event) (${increase()})`), { order: 3 });
});

test("posthog-node: a batch of which nothing is right is not sent again", async () => {
  quipu.begin("node-bad");
  const verdicts = await quipu.moved(1, async () => {
    const errors = await send((client) => client.capture(at(0, { distinctId: "u", event: "old", timestamp: new Date(-1) })));
    assert.deepEqual(errors.map((e) => e.status), [400]);
  });
  assert.deepEqual(verdicts, { rejected: 1 });
  assert.deepEqual(quipu.statuses(), [400]);
});

test("posthog-node: of a batch with a bad event the others are counted", async () => {
  quipu.begin("node-mixed");
  const verdicts = await quipu.moved(2, async () => {
    assert.deepEqual(await send((client) => {
      client.capture(at(0, { distinctId: "u", event: "mixed", timestamp: new Date(-1) }));
      client.capture(at(1, { distinctId: "u", event: "mixed" }));
    }), []);
  });
  assert.deepEqual(verdicts, { accepted: 1, rejected: 1 });
});

const FAULTS = [
  ["a 503", { status: 503, headers: { "Retry-After": "1" } }, [503, 200]],
  ["a 429", { status: 429, headers: { "Retry-After": "1" } }, [429, 200]],
  ["a lost answer", "lost", [200, 200]],
];

for (const [what, fault, statuses] of FAULTS) {
  test(`posthog-node: after ${what} the batch is sent again and counts once`, async () => {
    quipu.begin(`node-${what.replaceAll(" ", "-")}`);
    quipu.faults.push(fault);
    const lost = fault === "lost";
    const verdicts = await quipu.moved(lost ? 4 : 2, async () => {
      assert.deepEqual(await send((client) => [0, 1].forEach((i) => client.capture(at(i, { distinctId: `u${i}`, event: "retried" })))), []);
    });
    assert.deepEqual(verdicts, lost ? { accepted: 2, duplicate: 2 } : { accepted: 2 });
    assert.deepEqual(quipu.statuses(), statuses);
    assert.deepEqual(await quipu.query(`sum by (event) (${increase()})`), { retried: 2 });
  });
}

// visit opens a page of a site with posthog-js in it, as posthog in its window.
async function visit(options = {}) {
  const userAgent = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36";
  context = await site.browser.newContext({ userAgent });
  const page = await context.newPage();
  await page.goto(`${site.url}/pricing?plan=pro&utm_source=mail`, { referer: "https://search.example/?q=shop" });
  await page.evaluate(async ([api_host, options]) => {
    const { default: posthog } = await import("/modules/posthog-js/dist/module.no-external.js");
    window.posthog = posthog;
    // It sends nothing from a browser that a program drives, unless it is told to.
    posthog.init("key", { api_host, opt_out_useragent_filter: true, autocapture: false, ...options });
  }, [quipu.url, options]);
  return page;
}

const now = (expr) => quipu.query(expr, Date.now());

const capture = (page, event, properties) =>
  page.evaluate(([event, properties]) => window.posthog.capture(event, properties, { send_instantly: true }).uuid, [event, properties]);

const captures = () => quipu.requests.filter((r) => /^\/(e|i\/v0\/e)\//.test(r.path));

for (const [what, options] of [["gzipped", {}], ["plain", { disable_compression: true }], ["with today's defaults", { defaults: "2026-01-30" }]]) {
  test(`posthog-js: ${what} events are counted, also as the page is closed`, async () => {
    quipu.begin(`js-${what.replace(/\W/g, "-")}`);
    const verdicts = await quipu.moved(5, async () => {
      const page = await visit(options);
      await capture(page, "order", { plan: "pro", amount: 9.5 });
      await capture(page, "order", { plan: "pro", amount: 20 });
      await awaited(() => quipu.verdicts(), (v) => v.accepted === 3);
      await page.evaluate(() => window.posthog.capture("last"));
      await page.close({ runBeforeUnload: true });
      await awaited(() => quipu.verdicts(), (v) => v.accepted === 5);
    });
    assert.deepEqual(verdicts, { accepted: 5 });
    const of = (event, plan = "") => `Chrome Desktop ${event} Linux /pricing ${plan}search.example mail`;
    assert.deepEqual(await now(`sum by (browser, device, event, os, page, plan, referrer, utm_source) (${increase()})`), {
      [of("order", "pro ")]: 2, [of("$pageview")]: 1, [of("last")]: 1, [of("$pageleave")]: 1,
    });
    assert.deepEqual(await now('sum(histogram_sum(increase(event_value{field="amount"}[1h] anchored)))'), { "": 29.5 });
    assert.deepEqual(await now("count_distinct(event_users[1h])"), { "": 1 });
    for (const request of captures()) assert.equal(await quipu.again(request), 200);
    assert.deepEqual(await quipu.verdicts(), { accepted: 5, duplicate: 5, filtered: 0, rejected: 0 });
  });
}

test("posthog-js: after a 503 and a lost answer events are sent again and count once", async () => {
  quipu.begin("js-retries");
  const page = await visit({ capture_pageview: false, advanced_disable_flags: true });
  quipu.faults.push({ status: 503, headers: { "Retry-After": "1", "Access-Control-Allow-Origin": "*" } });
  await Promise.all([page.waitForResponse((r) => r.status() === 503), capture(page, "refused")]);
  quipu.faults.push("lost");
  await capture(page, "lost");
  await awaited(() => quipu.verdicts(), (v) => v.accepted === 2 && v.duplicate === 1, 30_000);
  assert.deepEqual(await now(`sum by (event) (${increase()})`), { refused: 1, lost: 1 });
});

// What older versions of posthog-js and scripts send.
const BODIES = {
  "gzip that the query names": ["/e/?compression=gzip-js&ver=1.57.2", "text/plain", (event) => gzipSync(JSON.stringify(event))],
  "gzip of an array": ["/i/v0/e/?compression=gzip-js", "text/plain", (event) => gzipSync(JSON.stringify([event]))],
  "a form of base64": ["/e/?compression=base64", "application/x-www-form-urlencoded", (event) => new URLSearchParams({ data: Buffer.from(JSON.stringify(event)).toString("base64") }).toString()],
  "a form with + unescaped": ["/e/", "application/x-www-form-urlencoded", (event) => `data=${Buffer.from(JSON.stringify({ ...event, padding: "~~~>>>???" })).toString("base64")}`],
  "one event": ["/capture/", "application/json", (event) => JSON.stringify(event)],
  "one event at the path of today": ["/i/v0/e/", "application/json", (event) => JSON.stringify(event)],
};

for (const [what, [path, type, encode]] of Object.entries(BODIES)) {
  test(`${what} is counted once`, async () => {
    quipu.begin(what.replace(/\W/g, "-"));
    const body = encode({ api_key: "key", event: "order", distinct_id: "u1", uuid: uuid(1), timestamp: new Date(EVENT_TIME), properties: { plan: "pro", token: "key" } });
    const post = async () => {
      const response = await fetch(quipu.url + path, { method: "POST", headers: { "Content-Type": type }, body });
      return [response.status, (await response.json()).status];
    };
    const verdicts = await quipu.moved(2, async () => {
      assert.deepEqual(await post(), [200, 1]);
      assert.deepEqual(await post(), [200, 1]);
    });
    assert.deepEqual(verdicts, { accepted: 1, duplicate: 1 });
    assert.deepEqual(await quipu.query(`sum by (event, plan) (${increase("", "15s")})`, WINDOW_END), { "order pro": 1 });
  });
}

test("an event whose time is said as an offset was that long ago", async () => {
  quipu.begin("offset");
  const body = JSON.stringify([{ event: "order", uuid: uuid(1), offset: Date.now() - EVENT_TIME, properties: { distinct_id: "u1", token: "key" } }]);
  const response = await fetch(`${quipu.url}/e/?compression=gzip-js&_=${Date.now()}`, { method: "POST", headers: { "Content-Type": "text/plain" }, body: gzipSync(body) });
  assert.equal(response.status, 200);
  assert.deepEqual(await quipu.query(`sum by (event) (${increase("", "15s")})`, WINDOW_END), { order: 1 });
});

test("an event without a uuid counts each time", async () => {
  quipu.begin("no-uuid");
  const post = () => fetch(`${quipu.url}/capture/`, { method: "POST", body: JSON.stringify({ api_key: "key", event: "order", distinct_id: "u1" }) });
  const verdicts = await quipu.moved(2, async () => {
    for (const response of [await post(), await post()]) assert.equal(response.status, 200);
  });
  assert.deepEqual(verdicts, { accepted: 2 });
});
