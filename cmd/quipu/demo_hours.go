package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/quipudb/quipu/internal/answer"
	"github.com/quipudb/quipu/internal/client"
)

// demoPlotHeight leaves room for the table above it.
const demoPlotHeight = 8

// showHours prints one series of hours as a table, with a row for each hour of
// the day and a column for each day, and as a plot.
func showHours(con *console, a client.Answer, hours client.Range) error {
	value, err := answer.Decode(a)
	if err != nil {
		return err
	}
	if len(value.Matrix) != 1 {
		return errors.New("the hits per hour are not one series")
	}
	// A sample at the end of an hour counts the hour: it goes by its beginning.
	hits := map[time.Time]float64{}
	for _, sample := range value.Matrix[0].Values {
		hits[sample.Timestamp.Time().UTC().Add(-time.Hour)] = float64(sample.Value)
	}
	first := hours.Start.Add(-time.Hour)
	fmt.Fprint(con.out, hourTable(hits, first, hours.End))
	fmt.Fprintln(con.out)
	return answer.FprintPlot(con.out, value, answer.Plot{Range: hours, Width: con.width, Height: demoPlotHeight, Colors: con.outTerminal})
}

// hourTable lays out the hours from first until end. An hour without a hit is
// a dot, one outside of that time is blank.
func hourTable(hits map[time.Time]float64, first, end time.Time) string {
	const day = 24 * time.Hour
	text := &strings.Builder{}
	text.WriteString("hour ")
	for d := first.Truncate(day); d.Before(end); d = d.Add(day) {
		fmt.Fprintf(text, "  %6s", d.Format("2 Jan"))
	}
	text.WriteByte('\n')
	for h := range 24 {
		row := fmt.Sprintf("%02d:00", h)
		for d := first.Truncate(day); d.Before(end); d = d.Add(day) {
			hour, cell := d.Add(time.Duration(h)*time.Hour), ""
			switch n := hits[hour]; {
			case hour.Before(first) || !hour.Before(end):
			case n == 0:
				cell = "."
			default:
				cell = fmt.Sprintf("%.0f", n)
			}
			row += fmt.Sprintf("  %6s", cell)
		}
		text.WriteString(strings.TrimRight(row, " ") + "\n")
	}
	return text.String()
}
