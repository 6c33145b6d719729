package main

import (
	"testing"
	"time"
)

func TestSpanOfLogIsWholeHoursAroundIt(t *testing.T) {
	got, err := spanOfLog("../../testdata/access_log_2015.log")
	if err != nil {
		t.Fatal(err)
	}
	want := logSpan{
		oldest: time.Date(2015, time.May, 17, 10, 5, 0, 0, time.UTC),
		newest: time.Date(2015, time.May, 20, 21, 5, 59, 0, time.UTC),
		start:  time.Date(2015, time.May, 17, 10, 0, 0, 0, time.UTC),
		end:    time.Date(2015, time.May, 20, 22, 0, 0, 0, time.UTC),
		window: "4d",
	}
	if got != want {
		t.Errorf("span %+v, want %+v", got, want)
	}
}

func TestHourTable(t *testing.T) {
	first := time.Date(2015, time.May, 17, 22, 0, 0, 0, time.UTC)
	hits := map[time.Time]float64{first: 7, first.Add(2 * time.Hour): 123456}
	got := hourTable(hits, first, first.Add(4*time.Hour))
	want := "hour   17 May  18 May\n" +
		"00:00          123456\n" +
		"01:00               .\n"
	for h := 2; h < 22; h++ {
		want += time.Date(2015, time.May, 17, h, 0, 0, 0, time.UTC).Format("15:04") + "\n"
	}
	want += "22:00       7\n" +
		"23:00       .\n"
	if got != want {
		t.Errorf("table\n%s\nwant\n%s", got, want)
	}
}
