package ingest

import "strconv"

// plainResult is a Result to embed: what embeds a Result would have its AppendJSON, and
// be written without its own fields.
type plainResult Result

// AppendJSON appends r as encoding/json writes it, in a tenth of the time; ok is false
// where there is more to say than counts, which is left to it.
func (r Result) AppendJSON(dst []byte) (out []byte, ok bool) {
	if r.Errors == nil || len(r.Errors) > 0 || r.ErrorsOmitted > 0 || len(r.Warnings) > 0 {
		return dst, false
	}
	if cap(dst) == 0 {
		dst = make([]byte, 0, 128)
	}
	for _, count := range [...]struct {
		name string
		n    int
	}{
		{`{"accepted":`, r.Accepted}, {`,"duplicate":`, r.Duplicate}, {`,"filtered":`, r.Filtered}, {`,"rejected":`, r.Rejected},
	} {
		dst = strconv.AppendInt(append(dst, count.name...), int64(count.n), 10)
	}
	return append(dst, `,"errors":[]}`...), true
}
