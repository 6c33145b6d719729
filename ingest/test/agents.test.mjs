// Browsers, systems and bots of a real access log, beside what other libraries say of the
// same user agents: bowser and isbot.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import Bowser from "bowser";
import { isbot } from "isbot";
import { startQuipu } from "./harness.mjs";

const file = (path) => fileURLToPath(new URL(path, import.meta.url));
const RULES = `
metrics:
  - {name: hits, type: counter, labels: {agent: user_agent, browser: browser, os: os, bot: bot}}
`;

let quipu, agents;

before(async () => {
  quipu = await startQuipu();
  const { ok } = await fetch(`${quipu.url}/api/v1/event-rules`, { method: "PUT", body: RULES });
  assert.ok(ok);
  await promisify(execFile)(file("../../bin/quipu"), ["import", "accesslog", "--server", quipu.url, file("../../testdata/access_log_2015.log")]);
  const answer = await (await fetch(`${quipu.url}/api/v1/series?match[]=hits&start=2015-05-17T00:00:00Z&end=2015-05-21T00:00:00Z`)).json();
  agents = answer.data.filter(({ agent }) => agent);
});

after(() => quipu?.stop());

// share prints what two libraries disagree on, and returns on how many they agree, of
// those that both have a name for.
function share(what, ours, theirs) {
  let agree = 0, named = 0;
  for (const labels of agents) {
    const a = ours(labels), b = theirs(labels.agent);
    if (a === undefined || b === undefined) continue;
    named++;
    if (a === b) agree++;
    else console.log(`${what}: ${a}, by the other library ${b}: ${labels.agent}`);
  }
  console.log(`${what}: ${agree} of ${named} agree, of ${agents.length} user agents`);
  assert.ok(named > agents.length / 2);
  return agree / named;
}

// parsed is what bowser says; it has nothing for bots and what is no browser's.
function parsed(agent) {
  if (isbot(agent)) return {};
  try {
    return Bowser.parse(agent);
  } catch {
    return {};
  }
}

// Names for one and the same thing.
const BROWSERS = { "Opera Mini": "Opera", "Sogou Explorer": "Sogou Browser", Google: "Google Search", "Mobile Safari UI/WKWebView": "Safari" };
const SYSTEMS = { ChromeOS: "Chrome OS" };

test("the log has 558 user agents", () => {
  // All but the one of the line that is cut off, and "-", which is none.
  assert.ok(agents.length >= 556 && agents.length <= 558, `${agents.length}`);
});

test("bots agree on 99%", () => {
  assert.ok(share("bot", ({ bot }) => bot, (agent) => String(isbot(agent))) >= 0.99);
});

test("browsers agree on 99%", () => {
  const theirs = (agent) => {
    const name = parsed(agent).browser?.name;
    // A name it does not have is the beginning of the text.
    return name === "Mozilla" || agent.startsWith(name) && !agent.startsWith("Opera") ? undefined : name;
  };
  assert.ok(share("browser", ({ browser, bot }) => (bot === "true" ? undefined : BROWSERS[browser] ?? browser), theirs) >= 0.99);
});

test("systems agree on 99%", () => {
  assert.ok(share("os", ({ os, bot }) => (bot === "true" ? undefined : SYSTEMS[os] ?? os), (agent) => parsed(agent).os?.name) >= 0.99);
});
