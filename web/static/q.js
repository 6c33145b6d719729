// Quipu's tracker for pages: <script defer src="https://quipu.example/q.js"></script>.
// It keeps nothing on the visitor's machine. See docs/tracker.md.
((doc, nav) => {
  const { dataset: options, src } = doc.currentScript;
  const to = options.to || new URL("q", src).href;
  const origin = crypto.getRandomValues(new Uint32Array(3)).join("-");
  const refused = nav.globalPrivacyControl || nav.doNotTrack == 1;
  let queue = [], made = 0, failed = 0, timer, shown, seen, from = doc.referrer, vitals = {};

  // text is what is not known to have arrived. The server counts an event once by its id.
  const text = () => JSON.stringify({ k: options.key, d: options.site || location.hostname, s: Date.now(), e: queue });

  const send = async () => {
    const sent = [...queue], body = text();
    if (!sent.length) return (timer = 0);
    // A browser refuses what outlives its page and has more than 64 KiB.
    const { status } = await fetch(to, { method: "POST", body, keepalive: body.length < 2e4, credentials: "omit" }).catch(() => ({ status: 503 }));
    timer = 0; // one request at a time
    if (status == 429 || status > 499) {
      later(Math.min(1e3 * 2 ** failed++, 6e4));
    } else {
      failed = 0;
      queue = queue.filter((e) => !sent.includes(e));
      if (queue.length) later();
    }
  };
  const later = (wait = 200) => (timer ||= setTimeout(send, wait));

  const track = (n, p) => {
    if (refused) return;
    queue.push({ i: origin + "." + made++, n, t: Date.now(), u: seen || location.href, r: from, w: innerWidth, p });
    queue = queue.slice(-50);
    later();
  };

  // engaged tells how long the page was in sight since the last time it told.
  const engaged = () => {
    if (shown) track("engaged", { seconds: (performance.now() - shown) / 1e3 });
    shown = 0;
  };
  const view = () => {
    if (seen && new URL(seen).pathname == location.pathname) return;
    if (seen) engaged(), (from = seen);
    seen = location.href;
    track("pageview");
    if (!doc.hidden) shown = performance.now();
  };

  const observe = (type, each) => {
    try {
      new PerformanceObserver((list) => list.getEntries().forEach(each)).observe({ type, buffered: true, durationThreshold: 40 });
    } catch {}
  };
  let cluster = 0, began = 0, last = 0;
  observe("paint", (e) => e.name == "first-contentful-paint" && (vitals.fcp = e.startTime));
  observe("largest-contentful-paint", (e) => (vitals.lcp = e.startTime));
  observe("navigation", (e) => (vitals.ttfb = e.responseStart));
  observe("event", (e) => e.interactionId && (vitals.inp = Math.max(vitals.inp || 0, e.duration)));
  observe("layout-shift", (e) => {
    if (e.hadRecentInput) return;
    if (e.startTime - last > 1e3 || e.startTime - began > 5e3) (cluster = 0), (began = e.startTime);
    last = e.startTime;
    vitals.cls = Math.max(vitals.cls || 0, (cluster += e.value));
  });

  const hide = () => {
    engaged();
    if (vitals?.ttfb) track("vitals", vitals), (vitals = 0);
    if (queue.length && nav.sendBeacon(to, text())) queue = [];
  };
  const on = (target, names, act) => names.split(" ").forEach((name) => target.addEventListener(name, act, true));
  on(doc, "visibilitychange", () => (doc.hidden ? hide() : (shown ||= performance.now())));
  on(window, "pagehide", hide);
  on(window, "pageshow", (e) => e.persisted && ((seen = ""), view()));
  on(window, "popstate", view);
  const push = history.pushState;
  history.pushState = function () {
    push.apply(this, arguments);
    view();
  };

  // <a data-q="buy" data-q-plan="pro"> is an event "buy" of plan pro when it is clicked,
  // <form data-q="..."> when it is sent; links to other sites are "outbound".
  on(doc, "click auxclick submit", ({ target, type, button }) => {
    if (button > 1) return;
    const named = target.closest?.("[data-q]");
    if (named && (named.tagName == "FORM") == (type == "submit")) {
      const props = {};
      for (const { name, value } of named.attributes) if (name.startsWith("data-q-")) props[name.slice(7)] = value;
      track(named.dataset.q, props);
    }
    const link = target.closest?.("a[href]");
    if (link && /^http/.test(link.protocol) && link.host != location.host) track("outbound", { host: link.host, link: link.href });
  });

  window.quipu = track;
  if (doc.prerendering) on(doc, "prerenderingchange", view);
  else view();
})(document, navigator);
