// Queries over what every tenant counts without rules of its own. RANGE is the
// range on the page.

export const EXAMPLES = [
  { title: "Hits per hour", tab: "graph", step: "1h", expr: "sum(increase(events_total[1h] anchored))" },
  { title: "Events by name", tab: "table", expr: "sum by (event) (increase(events_total[RANGE] anchored))" },
  { title: "Top pages", tab: "table", expr: 'topk(10, sum by (page) (increase(events_total{page!=""}[RANGE] anchored)))' },
  { title: "Status codes", tab: "table", expr: 'sum by (status) (increase(events_total{status!=""}[RANGE] anchored))' },
  { title: "Unique users", tab: "table", expr: "count_distinct(event_users[RANGE])" },
  { title: "Unique users per hour", tab: "graph", step: "1h", expr: "count_distinct(event_users[1h])" },
  { title: "95th percentile of values", tab: "table", expr: "histogram_quantile(0.95, sum by (event, field) (increase(event_value[RANGE])))" },
];
