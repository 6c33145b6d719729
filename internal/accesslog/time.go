package accesslog

import "time"

// timeLayout is how both servers write "%t".
const timeLayout = "02/Jan/2006:15:04:05 -0700"

// parseTime reads the time of a line, in milliseconds since 1970 UTC.
func parseTime(s []byte) (millis int64, ok bool) {
	t, err := time.Parse(timeLayout, string(s))
	if err != nil {
		return 0, false
	}
	return t.UnixMilli(), true
}
