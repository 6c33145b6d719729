// Umami's events, by its library for servers, which returns the answer and sends nothing
// again.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Umami } from "@umami/node";
import { EVENT_TIME, WINDOW_END, startQuipu } from "./harness.mjs";

let quipu;

before(async () => (quipu = await startQuipu()));

after(() => quipu?.stop());

const client = (options) => new Umami({ hostUrl: quipu.url, websiteId: "w1", ...options });

// answer is the status of a response and whether it is in order.
async function answer(response) {
  const { status, ok } = { ...(await (await response).clone().json()), status: (await response).status };
  return [status, ok];
}

const VIEW = { url: "/pricing?utm_source=mail", hostname: "shop.example", referrer: "https://search.example/?q=shop", title: "Pricing", screen: "1920x1080", language: "de" };

const increase = (range = "1h") => `increase(events_total[${range}] anchored)`;

test("page views and events are counted, with their labels, users and times", async () => {
  quipu.begin("events");
  const u = client();
  const at = (i, more) => ({ timestamp: EVENT_TIME / 1000 + i, ...more });
  const verdicts = await quipu.moved(4, async () => {
    assert.deepEqual(await answer(u.track(at(0, VIEW))), [200, true]);
    assert.deepEqual(await answer(u.track(at(1, { name: "order", id: "u1", data: { plan: "pro", amount: 9.5 } }))), [200, true]);
    assert.deepEqual(await answer(u.track(at(2, { name: "order", id: "u2", data: { plan: "pro", amount: 20 } }))), [200, true]);
    assert.deepEqual(await answer(u.send(at(3, { website: "w1", data: { plan: "team" } }), "identify")), [200, true]);
  });
  assert.deepEqual(verdicts, { accepted: 4 });
  assert.deepEqual(await quipu.query(`sum by (event, device, page, plan, referrer, utm_source) (${increase()})`), {
    "desktop pageview /pricing search.example mail": 1, "order pro": 2, "identify team": 1,
  });
  assert.deepEqual(await quipu.query("sum by (field) (histogram_sum(increase(event_value[1h] anchored)))"), { amount: 29.5 });
  assert.deepEqual(await quipu.query("count_distinct(event_users[1h])"), { "": 3 });
  assert.deepEqual(await quipu.query(`sum(${increase("15s")})`, WINDOW_END), { "": 4 });
});

test("what the library has short words for is counted in the present", async () => {
  quipu.begin("present");
  const u = client({ userAgent: "Mozilla/5.0 (one)" });
  const verdicts = await quipu.moved(2, async () => {
    assert.deepEqual(await answer(u.track("order", { plan: "pro" })), [200, true]);
    assert.deepEqual(await answer(u.identify({ plan: "pro" })), [200, true]);
  });
  assert.deepEqual(verdicts, { accepted: 2 });
  assert.deepEqual(await quipu.query(`sum by (event, plan) (${increase()})`, Date.now()), { "order pro": 1, "identify pro": 1 });
});

test("what is no event is answered with 400 and the reason", async () => {
  quipu.begin("bad");
  const verdicts = await quipu.moved(1, async () => assert.deepEqual(await answer(client().send({ website: "w1" }, "rain")), [400, false]));
  assert.deepEqual(verdicts, { rejected: 1 });
});
