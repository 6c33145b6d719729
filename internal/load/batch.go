package load

import (
	"bytes"
	"math"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// batch is one request, head and body. It is written once; next makes another of it
// in place, which takes a tenth of the time of writing it.
type batch struct {
	request []byte
	events  int
	places  []place // in order
	key     int     // where the Idempotency-Key is in request; 0: none
	fields  []batchField
	mix     mix

	random rand.PCG
	ids    idRange
	// sameIDs is how many events of the batch have an id that was used before.
	sameIDs int
	// nowMillis and nowRFC3339 are the time of events that are not late.
	nowMillis  [millisWidth]byte
	nowRFC3339 [rfc3339Width]byte
	text       []byte // of format
	made       uint64 // batches so far
}

// batchField is a field and its values.
type batchField struct {
	Field
	values *values
}

// mix is which events differ from most.
type mix struct {
	late   float64
	lateBy time.Duration
	sameID float64
}

// place is where an event has what changes from batch to batch.
type place struct {
	at   int32
	what int32 // an index of fields, or one of those below
}

const (
	placeID = -1 - iota
	placeMillis
	placeRFC3339
	placeCorrelation
	placeDuration
)

const (
	millisWidth      = 13 // from 2001 to 2286
	rfc3339Width     = len(rfc3339Millis)
	correlationWidth = 10
	durationWidth    = 6
	idWidth          = 36
	rfc3339Millis    = "2006-01-02T15:04:05.000Z"
)

// idRange are the ids of one connection: UUIDs of the form of version 8, which is free
// for any use (RFC 9562, section 5.8).
type idRange struct {
	run, connection uint64
	used            uint64 // the ids 0 to used-1 were sent
	answered        uint64 // the ids 0 to answered-1 were stored
}

func (b *batch) literal(text string) { b.request = append(b.request, text...) }

// reserve leaves a place of width bytes.
func (b *batch) reserve(what int32, width int) {
	b.places = append(b.places, place{int32(len(b.request)), what})
	for range width {
		b.request = append(b.request, '0')
	}
}

func (b *batch) id()      { b.reserve(placeID, idWidth) }
func (b *batch) millis()  { b.reserve(placeMillis, millisWidth) }
func (b *batch) rfc3339() { b.reserve(placeRFC3339, rfc3339Width) }
func (b *batch) correlation() {
	b.request = append(b.request, '1')
	b.reserve(placeCorrelation, correlationWidth-1)
}
func (b *batch) event() { b.value(fieldEvent) }
func (b *batch) user()  { b.value(fieldUser) }

// value leaves a place for the value of a field, which is fixed where the event has no
// such field.
func (b *batch) value(name string) {
	for i := range b.fields {
		if f := &b.fields[i]; f.Name == name {
			b.reserve(int32(i), f.values.width())
			copy(b.request[len(b.request)-f.values.width():], f.values.prefix)
			return
		}
	}
	b.literal(name)
}

// properties are the fields but for the event's name and user, and a duration.
func (b *batch) properties() {
	for i := range b.fields {
		if f := &b.fields[i]; f.Name != fieldEvent && f.Name != fieldUser {
			b.literal(`"` + f.Name + `":"`)
			b.value(f.Name)
			b.literal(`",`)
		}
	}
	b.literal(`"duration_ms":`)
	b.reserve(placeDuration, durationWidth)
}

// next makes the batch another one, at the present given.
func (b *batch) next(now time.Time) {
	ms := now.UnixMilli()
	putDecimal(b.nowMillis[:], uint64(ms))
	copy(b.nowRFC3339[:], b.format(ms))
	b.sameIDs = 0
	if b.key > 0 {
		b.ids.put(b.request[b.key:b.key+idWidth], b.made, 1)
	}
	b.made++
	for i := range b.places {
		p := &b.places[i]
		if p.what >= 0 {
			v := b.fields[p.what].values
			v.put(b.request[p.at:int(p.at)+v.width()], v.draw(&b.random))
			continue
		}
		b.place(p, ms)
	}
}

// place fills a place that is not a field.
func (b *batch) place(p *place, ms int64) {
	to := b.request[p.at:]
	switch p.what {
	case placeID:
		if b.mix.sameID > 0 && b.ids.answered > 0 && b.chance() < b.mix.sameID {
			// Of the newest, which a server is most likely to remember.
			back := 1 + b.random.Uint64()%min(b.ids.answered, 100_000)
			b.ids.put(to[:idWidth], b.ids.answered-back, 0)
			b.sameIDs++
			return
		}
		b.ids.put(to[:idWidth], b.ids.used, 0)
		b.ids.used++
	case placeMillis, placeRFC3339:
		width := millisWidth
		if p.what == placeRFC3339 {
			width = rfc3339Width
		}
		switch late := b.lateness(); {
		case late == 0 && p.what == placeMillis:
			copy(to[:width], b.nowMillis[:])
		case late == 0:
			copy(to[:width], b.nowRFC3339[:])
		case p.what == placeMillis:
			putDecimal(to[:width], uint64(ms-late))
		default:
			copy(to[:width], b.format(ms-late))
		}
	case placeCorrelation:
		putDecimal(to[:correlationWidth-1], b.random.Uint64()>>32)
	case placeDuration:
		copy(to[:durationWidth], durations[b.random.Uint64()>>32%uint64(len(durations))][:])
	}
}

// format writes a time, which is good until the next: AppendFormat needs more room than
// it fills in the end.
func (b *batch) format(ms int64) []byte {
	b.text = time.UnixMilli(ms).UTC().AppendFormat(b.text[:0], rfc3339Millis)
	return b.text
}

// lateness is by how many milliseconds an event is late.
func (b *batch) lateness() int64 {
	if b.mix.late == 0 || b.chance() >= b.mix.late {
		return 0
	}
	return 1 + int64(b.random.Uint64()%uint64(b.mix.lateBy.Milliseconds()))
}

// chance is a number from 0 up to 1.
func (b *batch) chance() float64 { return float64(b.random.Uint64()>>11) / (1 << 53) }

// stored notes that the server has the batch.
func (b *batch) stored() { b.ids.answered = b.ids.used }

// put writes the id of a number; those of events and of batches are apart.
func (r *idRange) put(dst []byte, number, apart uint64) {
	copy(dst, "00000000-0000-8000-8000-000000000000")
	putHex(dst[0:8], r.run)
	putHex(dst[9:13], r.connection)
	putHex(dst[15:18], apart)
	putHex(dst[24:36], number)
}

// durations are lognormal with median 120 and of six characters each.
var durations = func() (out [4096][durationWidth]byte) {
	random := rand.New(rand.NewPCG(1, 2))
	for i := range out {
		d := min(max(120*math.Exp(random.NormFloat64()), 10), 9999)
		copy(out[i][:], strconv.FormatFloat(d, 'f', 4, 64))
	}
	return out
}()

// newBatch writes a request.
func newBatch(o *Options, f format, base *url.URL, seed, connection, run uint64) *batch {
	b := &batch{
		events: o.Batch,
		mix:    mix{o.Late, o.LateBy, o.SameID},
		random: *rand.NewPCG(seed, connection),
		ids:    idRange{run: run, connection: connection},
	}
	for _, field := range o.Fields {
		b.fields = append(b.fields, batchField{field, newValues(field)})
	}
	f.append(b, o.Batch)
	body, places := b.request, b.places
	b.request = nil
	path := strings.TrimSuffix(base.EscapedPath(), "/") + o.Path
	b.literal("POST " + path + " HTTP/1.1\r\nHost: " + base.Host + "\r\nUser-Agent: quipu-bench\r\nContent-Type: " + f.contentType() +
		"\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n")
	header := func(name, value string) { b.literal(http.CanonicalHeaderKey(name) + ": " + value + "\r\n") }
	if o.Token != "" {
		header("Authorization", "Bearer "+o.Token)
	}
	if o.Tenant != "" {
		header(o.TenantHeader, o.Tenant)
	}
	if o.SameBatch > 0 {
		b.literal("Idempotency-Key: ")
		b.key = len(b.request)
		b.literal("00000000-0000-8000-8000-000000000000\r\n")
	}
	b.literal("\r\n")
	head := len(b.request)
	b.request = append(b.request, body...)
	for i := range places {
		places[i].at += int32(head)
	}
	b.places = places
	return b
}

// Bodies returns n different bodies of batches, of the present, for who measures without
// a server. Of the options it reads those that say what the events are.
func Bodies(o Options, n int) ([][]byte, error) {
	o.Server, o.Connections, o.Count = "http://localhost", 1, 1
	base, f, err := o.validate()
	if err != nil {
		return nil, err
	}
	b := newBatch(&o, f, base, o.Seed, 0, 0)
	out := make([][]byte, n)
	for i := range out {
		b.next(time.Now())
		_, body, _ := bytes.Cut(b.request, []byte("\r\n\r\n"))
		out[i] = bytes.Clone(body)
	}
	return out, nil
}
