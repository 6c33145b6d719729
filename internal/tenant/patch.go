package tenant

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"

	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v3"
)

// Patch is a part of Settings: what is nil says nothing. Its fields are those of
// Settings, by name.
type Patch struct {
	Plan             *string          `yaml:"plan,omitempty" json:"plan,omitempty"`
	Grid             *Duration        `yaml:"grid,omitempty" json:"grid,omitempty"`
	IdleTimeout      *Duration        `yaml:"idle_timeout,omitempty" json:"idle_timeout,omitempty"`
	IdleTimeouts     *IdleTimeouts    `yaml:"idle_timeouts,omitempty" json:"idle_timeouts,omitempty"`
	Retention        *Duration        `yaml:"retention,omitempty" json:"retention,omitempty"`
	RetentionRules   *RetentionRules  `yaml:"retention_rules,omitempty" json:"retention_rules,omitempty"`
	RetentionSize    *ByteSize        `yaml:"retention_size,omitempty" json:"retention_size,omitempty"`
	Downsample       *DownsampleRules `yaml:"downsample,omitempty" json:"downsample,omitempty"`
	ExactCounts      *bool            `yaml:"exact_counts,omitempty" json:"exact_counts,omitempty"`
	FilterBots       *bool            `yaml:"filter_bots,omitempty" json:"filter_bots,omitempty"`
	HonourDoNotTrack *bool            `yaml:"honour_do_not_track,omitempty" json:"honour_do_not_track,omitempty"`
	Suspended        *bool            `yaml:"suspended,omitempty" json:"suspended,omitempty"`
	Limits           LimitsPatch      `yaml:"limits,omitempty" json:"limits,omitzero"`
}

// LimitsPatch is a part of Limits, whose fields it has by name.
type LimitsPatch struct {
	EventsPerSecond   *int64    `yaml:"events_per_second,omitempty" json:"events_per_second,omitempty"`
	BytesPerSecond    *int64    `yaml:"bytes_per_second,omitempty" json:"bytes_per_second,omitempty"`
	BodyBytes         *int64    `yaml:"body_bytes,omitempty" json:"body_bytes,omitempty"`
	DecodedBytes      *int64    `yaml:"decoded_bytes,omitempty" json:"decoded_bytes,omitempty"`
	JSONDepth         *int      `yaml:"json_depth,omitempty" json:"json_depth,omitempty"`
	EventAge          *Duration `yaml:"event_age,omitempty" json:"event_age,omitempty"`
	ClockSkew         *Duration `yaml:"clock_skew,omitempty" json:"clock_skew,omitempty"`
	LabelsPerSeries   *int      `yaml:"labels_per_series,omitempty" json:"labels_per_series,omitempty"`
	LabelValueBytes   *int      `yaml:"label_value_bytes,omitempty" json:"label_value_bytes,omitempty"`
	Series            *int      `yaml:"series,omitempty" json:"series,omitempty"`
	SeriesPerMetric   *int      `yaml:"series_per_metric,omitempty" json:"series_per_metric,omitempty"`
	Exemplars         *int      `yaml:"exemplars,omitempty" json:"exemplars,omitempty"`
	ConcurrentQueries *int      `yaml:"concurrent_queries,omitempty" json:"concurrent_queries,omitempty"`
	QueuedQueries     *int      `yaml:"queued_queries,omitempty" json:"queued_queries,omitempty"`
	QuerySeries       *int64    `yaml:"query_series,omitempty" json:"query_series,omitempty"`
	QuerySamples      *int64    `yaml:"query_samples,omitempty" json:"query_samples,omitempty"`
	QuerySteps        *int64    `yaml:"query_steps,omitempty" json:"query_steps,omitempty"`
	QueryTime         *Duration `yaml:"query_time,omitempty" json:"query_time,omitempty"`
}

// Duration is written as Prometheus writes one; an error says on which line it is.
type Duration model.Duration

// UnmarshalYAML reads "15s".
func (d *Duration) UnmarshalYAML(n *yaml.Node) error {
	v, err := model.ParseDuration(n.Value)
	if err != nil {
		return &yaml.TypeError{Errors: []string{fmt.Sprintf("line %d: %v", n.Line, err)}}
	}
	*d = Duration(v)
	return nil
}

// MarshalYAML writes "15s".
func (d Duration) MarshalYAML() (any, error) { return model.Duration(d).String(), nil }

// UnmarshalJSON reads "15s" in quotes.
func (d *Duration) UnmarshalJSON(text []byte) error { return (*model.Duration)(d).UnmarshalJSON(text) }

// MarshalJSON writes "15s" in quotes.
func (d Duration) MarshalJSON() ([]byte, error) { return model.Duration(d).MarshalJSON() }

// ParsePatch decodes YAML; unknown fields are errors that name their line.
func ParsePatch(src []byte) (Patch, error) {
	var p Patch
	dec := yaml.NewDecoder(bytes.NewReader(src))
	dec.KnownFields(true)
	if err := dec.Decode(&p); err != nil && !errors.Is(err, io.EOF) { // EOF: nothing but comments
		return Patch{}, err
	}
	return p, nil
}

// yaml is what p says, for ParsePatch.
func (p *Patch) yaml() []byte {
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := errors.Join(enc.Encode(p), enc.Close()); err != nil {
		panic(err) // it has nothing that cannot be written
	}
	return out.Bytes()
}

// over returns s with what p says.
func (p *Patch) over(s Settings) Settings {
	from, to := reflect.ValueOf(p).Elem(), reflect.ValueOf(&s).Elem()
	for i := range settingFields {
		f := &settingFields[i]
		if said := from.FieldByIndex(f.inPatch); !said.IsNil() {
			field := to.FieldByIndex(f.inSettings)
			field.Set(said.Elem().Convert(field.Type()))
		}
	}
	if len(s.IdleTimeouts) == 0 {
		s.IdleTimeouts = nil // one way to say none
	}
	if len(s.Downsample) == 0 {
		s.Downsample = nil
	}
	return s
}

// settingField is where a setting is in the structures.
type settingField struct {
	name                string // as it is written: "limits.series"
	inPatch, inSettings []int
}

// settingFields are all settings in order. They are looked up once: a new policy for
// 10,000 tenants took 0.9 s with names that were made each time.
var settingFields = func() []settingField {
	var out []settingField
	in := map[string][]int{}
	eachField(reflect.TypeFor[Settings](), "", nil, func(name string, index []int) { in[name] = index })
	eachField(reflect.TypeFor[Patch](), "", nil, func(name string, index []int) {
		if in[name] == nil {
			panic("tenant: settings have no " + name)
		}
		out = append(out, settingField{name, index, in[name]})
	})
	return out
}()

// eachField calls f with the fields of a structure by the names of their YAML, those of
// structures inside it among them.
func eachField(t reflect.Type, prefix string, index []int, f func(name string, index []int)) {
	for i := range t.NumField() {
		field := t.Field(i)
		name, _, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		at := append(slices.Clone(index), i)
		if field.Type.Kind() == reflect.Struct {
			eachField(field.Type, prefix+name+".", at, f)
			continue
		}
		f(prefix+name, at)
	}
}

// Fields are the names of what p says, as they are written: "limits.series".
func (p *Patch) Fields() []string {
	var out []string
	p.each(func(name string, field reflect.Value) {
		if !field.IsNil() {
			out = append(out, name)
		}
	})
	return out
}

// IsZero reports whether p says nothing.
func (p *Patch) IsZero() bool { return len(p.Fields()) == 0 }

// Field is one of the settings, named as it is written: "limits.series".
type Field struct {
	Name  string
	Value any
}

// Fields are those of settings, in order.
func Fields(s *Settings) []Field {
	v := reflect.ValueOf(s).Elem()
	out := make([]Field, len(settingFields))
	for i := range settingFields {
		out[i] = Field{settingFields[i].name, v.FieldByIndex(settingFields[i].inSettings).Interface()}
	}
	return out
}

// each calls f with every field, a pointer, and its name as it is written.
func (p *Patch) each(f func(name string, field reflect.Value)) {
	v := reflect.ValueOf(p).Elem()
	for i := range settingFields {
		f(settingFields[i].name, v.FieldByIndex(settingFields[i].inPatch))
	}
}

// Merge changes p by a JSON object: a field that is null is said no longer, what the
// object does not have stays. It returns the names of the fields that the object has;
// an error names the field.
func (p *Patch) Merge(object []byte) ([]string, error) {
	fields := map[string]reflect.Value{}
	p.each(func(name string, v reflect.Value) { fields[name] = v })
	out := *p
	named, err := merge(fields, "", object)
	if err != nil {
		*p = out
		return nil, err
	}
	return named, nil
}

func merge(fields map[string]reflect.Value, prefix string, object []byte) (named []string, err error) {
	where := strings.TrimSuffix(prefix, ".")
	if where == "" {
		where = "settings"
	}
	members, err := membersOf(object)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", where, err)
	}
	for _, m := range members {
		name, value := prefix+m.name, bytes.TrimSpace(m.value)
		field, ok := fields[name]
		switch {
		case !ok && prefix == "" && m.name == "limits" && !bytes.Equal(value, []byte("null")):
			inside, err := merge(fields, name+".", value)
			if err != nil {
				return nil, err
			}
			named = append(named, inside...)
			continue
		case !ok && name == "limits":
			for inside, v := range fields {
				if strings.HasPrefix(inside, "limits.") {
					v.SetZero()
					named = append(named, inside)
				}
			}
			continue
		case !ok:
			return nil, fmt.Errorf("%s is no setting", name)
		case bytes.Equal(value, []byte("null")):
			field.SetZero()
		case field.Type() == reflect.TypeFor[*IdleTimeouts]():
			if err := mergeTimeouts(field, value); err != nil {
				return nil, fmt.Errorf("%s: %s is not right: %w", name, value, err)
			}
		default:
			to := reflect.New(field.Type().Elem())
			if err := json.Unmarshal(value, to.Interface()); err != nil {
				return nil, fmt.Errorf("%s: %s is not right: %w", name, value, err)
			}
			field.Set(to)
		}
		named = append(named, name)
	}
	return named, nil
}

// mergeTimeouts changes a field by what an object says of single metrics.
func mergeTimeouts(field reflect.Value, object []byte) error {
	var had IdleTimeouts
	if p := field.Interface().(*IdleTimeouts); p != nil {
		had = *p
	}
	out, err := had.merge(object)
	switch {
	case err != nil:
		return err
	case len(out) == 0:
		field.SetZero()
	default:
		field.Set(reflect.ValueOf(&out))
	}
	return nil
}

type member struct {
	name  string
	value json.RawMessage
}

// membersOf returns what a JSON object has, in its order.
func membersOf(object []byte) ([]member, error) {
	dec := json.NewDecoder(bytes.NewReader(object))
	if begin, err := dec.Token(); err != nil || begin != json.Delim('{') {
		return nil, errors.New("a JSON object is needed")
	}
	var out []member
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return nil, err
		}
		m := member{name: name.(string)}
		if err := dec.Decode(&m.value); err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	if _, err := dec.Token(); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is more after the JSON object")
	}
	return out, nil
}

// FieldJSON is the value of a field, as Merge takes it, that a person wrote as text: "" is
// said no longer.
func FieldJSON(name, text string) (json.RawMessage, error) {
	if metric, ok := strings.CutPrefix(name, "idle_timeouts."); ok && metric != "" {
		name = "idle_timeout" // one of them is written as that is
	}
	var p Patch
	var kind reflect.Type
	p.each(func(have string, field reflect.Value) {
		if have == name {
			kind = field.Type().Elem()
		}
	})
	switch {
	case kind == nil:
		return nil, fmt.Errorf("%s is no setting", name)
	case text == "":
		return json.RawMessage("null"), nil
	case kind == reflect.TypeFor[string]() || kind == reflect.TypeFor[Duration]() || kind == reflect.TypeFor[ByteSize]():
		return json.Marshal(text)
	case json.Valid([]byte(text)):
		return json.RawMessage(text), nil
	case kind.Kind() == reflect.Slice || kind.Kind() == reflect.Map: // as it is in the file
		var value any
		if err := yaml.Unmarshal([]byte(text), &value); err != nil {
			return nil, fmt.Errorf("%s: %q is not a list: %w", name, text, err)
		}
		return json.Marshal(value)
	}
	return nil, fmt.Errorf("%s: %q is not a %s", name, text, kind)
}
