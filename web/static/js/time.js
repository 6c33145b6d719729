// Times are milliseconds since 1970 everywhere; this file turns them into what
// people and form fields read, and back.

export const SECOND = 1000;
export const MINUTE = 60 * SECOND;
export const HOUR = 60 * MINUTE;
export const DAY = 24 * HOUR;
const WEEK = 7 * DAY;

const UNITS = { ms: 1, s: SECOND, m: MINUTE, h: HOUR, d: DAY, w: WEEK };

// parseDuration reads "90", "90s" or "1h30m" and returns milliseconds, or null.
export function parseDuration(text) {
  const trimmed = text.trim();
  if (/^\d+(\.\d+)?$/.test(trimmed)) return Math.round(Number(trimmed) * SECOND) || null;
  if (!/^(\d+(ms|[smhdw]))+$/.test(trimmed)) return null;
  let total = 0;
  for (const [, count, unit] of trimmed.matchAll(/(\d+)(ms|[smhdw])/g)) total += Number(count) * UNITS[unit];
  return total || null;
}

// formatDuration spells milliseconds as PromQL does: 5400000 is "1h30m".
export function formatDuration(ms) {
  let rest = Math.round(ms);
  let text = "";
  for (const unit of ["d", "h", "m", "s", "ms"]) {
    const count = Math.floor(rest / UNITS[unit]);
    if (count > 0) text += count + unit;
    rest -= count * UNITS[unit];
  }
  return text || "0s";
}

// The steps that "auto" chooses from: each divides the next or a day, so that
// points fall on whole minutes, hours and days.
const STEPS = [15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400].map((s) => s * SECOND);
const POINTS_MAX = 300;

// autoStep returns the finest step that draws at most POINTS_MAX points.
export function autoStep(span) {
  const least = span / POINTS_MAX;
  return STEPS.find((step) => step >= least) ?? Math.ceil(least / DAY) * DAY;
}

const two = (n) => String(n).padStart(2, "0");

// toField returns the value of a datetime-local input.
export function toField(ms, zone) {
  if (zone === "utc") return new Date(ms).toISOString().slice(0, 19);
  const d = new Date(ms);
  const date = `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())}`;
  return `${date}T${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}`;
}

// fromField reads the value of a datetime-local input; NaN where it is no time.
export function fromField(value, zone) {
  return Date.parse(zone === "utc" ? value + "Z" : value);
}

// formatTime is for people: the date, the time, and in which zone.
export function formatTime(ms, zone) {
  return toField(ms, zone).replace("T", " ") + (zone === "utc" ? " UTC" : "");
}
