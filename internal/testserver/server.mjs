// Starts the real binary on a directory of its own, and stops it.

import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import http from "node:http";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { fileURLToPath } from "node:url";
import path from "node:path";

const BINARY = fileURLToPath(new URL("../../bin/quipu", import.meta.url));
const START_MS_MAX = 30_000;

async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}

// makeKey makes an API key of a tenant in the directory of a server, which takes it within
// a second.
export function makeKey(server, tenant, permission) {
  const made = spawnSync(BINARY, ["keys", "create", "--data.dir", server.dir, "--of", tenant, "--permission", permission], { encoding: "utf8" });
  if (made.status !== 0) throw new Error(`no key was made: ${made.stderr}`);
  return made.stdout.trim();
}

// startServer returns { url, dir, stop } of a server that is ready; flags are more than
// it has always.
export async function startServer(...flags) {
  const dir = await mkdtemp(path.join(tmpdir(), "quipu-test-"));
  const listen = `127.0.0.1:${await freePort()}`;
  const args = ["serve", "--data.dir", dir, "--listen", listen, "--tenant.header=X-Scope-OrgID", ...flags];
  const child = spawn(BINARY, args, { stdio: ["ignore", "pipe", "pipe"] });
  let log = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (text) => (log += text));
  const gone = once(child, "exit");
  const stop = async () => {
    child.kill("SIGTERM");
    await gone;
    await rm(dir, { recursive: true });
  };
  const deadline = Date.now() + START_MS_MAX;
  const url = `http://${listen}`;
  for (;;) {
    const ready = await fetch(`${url}/-/ready`).catch(() => null);
    if (ready?.ok) return { url, dir, stop };
    if (child.exitCode !== null || Date.now() > deadline) {
      await stop();
      throw new Error(`the server is not ready:\n${log}`);
    }
    await new Promise((resume) => setTimeout(resume, 20));
  }
}

// startProxy serves url under a path of its own, as a proxy in front of the server
// would: { url: "http://127.0.0.1:port/quipu", stop }.
export async function startProxy(url) {
  const proxy = http.createServer((request, response) => {
    const path = request.url.replace(/^\/quipu(?=\/)/, "");
    if (path === request.url) return response.writeHead(404).end();
    const { method, headers } = request;
    const forward = http.request(url + path, { method, headers }, (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      answer.pipe(response);
    });
    forward.on("error", (err) => response.destroy(err));
    request.pipe(forward);
  });
  proxy.listen(0, "127.0.0.1");
  await once(proxy, "listening");
  const stop = async () => {
    proxy.closeAllConnections();
    proxy.close();
    await once(proxy, "close");
  };
  return { url: `http://127.0.0.1:${proxy.address().port}/quipu`, stop };
}
