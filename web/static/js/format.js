// How label sets and sample values are written.

const quote = (value) => JSON.stringify(value);

// seriesName writes labels the way PromQL does: up{job="a"}.
export function seriesName(labels) {
  const { __name__: name = "", ...rest } = labels;
  const pairs = Object.entries(rest).map(([label, value]) => `${label}=${quote(value)}`);
  return pairs.length > 0 || name === "" ? `${name}{${pairs.join(", ")}}` : name;
}

// legendNames names the series of a chart by what tells them apart: labels that
// all have alike are left out, and the value of a single label stands alone.
export function legendNames(all) {
  if (all.length === 1) return [Object.keys(all[0]).length === 0 ? "value" : seriesName(all[0])];
  const labels = [...new Set(all.flatMap((series) => Object.keys(series)))];
  const telling = labels.filter((label) => all.some((series) => series[label] !== all[0][label]));
  return all.map((series) => {
    if (telling.length === 1) return series[telling[0]] || `no ${telling[0]}`;
    return seriesName(Object.fromEntries(telling.filter((label) => label in series).map((label) => [label, series[label]])));
  });
}

const DECIMALS_MAX = 6;

// sampleValue shortens the text of a sample for display. Integers stay as the
// server wrote them, digit by digit; the decimals of others are cut to six
// significant ones.
export function sampleValue(text) {
  if (!/^-?\d+\.\d+$/.test(text)) return text;
  const value = Number(text);
  const whole = Math.abs(Math.trunc(value));
  const digits = whole === 0 ? 0 : String(whole).length;
  return String(Number(value.toPrecision(Math.min(21, Math.max(DECIMALS_MAX, digits + 3)))));
}

const axisNumber = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 2 });

// axisValue is short enough for a chart's axis: 12000 is "12K".
export function axisValue(value) {
  return Math.abs(value) > 0 && Math.abs(value) < 0.01 ? value.toExponential(1) : axisNumber.format(value);
}

// count writes a number of things: 1 row, 2 rows.
export function count(n, one, many = one + "s") {
  return `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
}
