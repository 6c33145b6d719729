package ingest

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/valyala/fastjson"
)

// reason is why an event was rejected, as the metric counts it.
type reason uint8

const (
	reasonBadJSON reason = iota
	reasonNotAnObject
	reasonBadEnvelope
	reasonTooLarge
	reasonTooDeep
	reasonBadEventName
	reasonBadFurtherData
	reasonBadUserID
	reasonBadTimestamp
	reasonTooOld
	reasonInTheFuture
	reasonTooManyNumbers
	reasonBadNumber
	reasonBadValue
	reasonRefused
	reasonStorage
	reasons // how many there are
)

// String returns the value of the metric's label.
func (r reason) String() string {
	return [reasons]string{
		reasonBadJSON:        "bad_json",
		reasonNotAnObject:    "not_an_object",
		reasonBadEnvelope:    "bad_envelope",
		reasonTooLarge:       "too_large",
		reasonTooDeep:        "too_deep",
		reasonBadEventName:   "bad_event_name",
		reasonBadFurtherData: "bad_further_data",
		reasonBadUserID:      "bad_user_id",
		reasonBadTimestamp:   "bad_timestamp",
		reasonTooOld:         "too_old",
		reasonInTheFuture:    "in_the_future",
		reasonTooManyNumbers: "too_many_numbers",
		reasonBadNumber:      "bad_number",
		reasonBadValue:       "bad_value",
		reasonRefused:        "refused",
		reasonStorage:        "storage",
	}[r]
}

// rejection is why one event was rejected, for the metric and for a person.
type rejection struct {
	reason reason
	text   string
}

func reject(r reason, format string, args ...any) *rejection {
	return &rejection{r, fmt.Sprintf(format, args...)}
}

// shownBytesMax is how much of a client's value a message repeats.
const shownBytesMax = 100

// shorten cuts s to shownBytesMax bytes of valid UTF-8.
func shorten(s string) string {
	if len(s) > shownBytesMax {
		cut := shownBytesMax
		for cut > 0 && !utf8.RuneStart(s[cut]) {
			cut--
		}
		s = s[:cut] + "..."
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// show is v as it was written, shortened.
func show(v *fastjson.Value) string { return shorten(string(v.MarshalTo(nil))) }
