package tenant

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/prometheus/common/model"
)

const (
	// downsampleRulesMax is how many rules of downsampling a tenant may have.
	downsampleRulesMax = 8
	// downsampleAfterMin is the least age of data that is made coarse: a day that still
	// grows is merged over and over.
	downsampleAfterMin = 24 * time.Hour
)

// DownsampleRule says from which age on data is kept on a coarser grid.
type DownsampleRule struct {
	After Duration `yaml:"after" json:"after"`
	// To is the width of the windows then.
	To Duration `yaml:"to" json:"to"`
}

// DownsampleRules are those of a tenant, by age: each multiplies the step of the one
// before. What is shared is never changed.
type DownsampleRules []DownsampleRule

// String is what commands show.
func (r DownsampleRules) String() string {
	if len(r) == 0 {
		return "[]"
	}
	src, err := json.Marshal([]DownsampleRule(r))
	if err != nil {
		panic(err) // it has nothing that cannot be written
	}
	return string(src)
}

// UnmarshalJSON reads a list of objects; another field is an error.
func (r *DownsampleRules) UnmarshalJSON(src []byte) error {
	var rules []DownsampleRule
	dec := json.NewDecoder(bytes.NewReader(src))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&rules); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is more after the list of rules")
	}
	*r = rules
	return nil
}

// validateDownsample says which rule is wrong. A step is at most the idle timeout: then
// what is kept of a window, its first and last increment, says where runs end.
func (s *Settings) validateDownsample() error {
	if n := len(s.Downsample); n > downsampleRulesMax {
		return fmt.Errorf("downsample has %d rules, it may have at most %d", n, downsampleRulesMax)
	}
	step, age := time.Duration(s.Grid), time.Duration(0)
	for i, r := range s.Downsample {
		after, to := time.Duration(r.After), time.Duration(r.To)
		switch {
		case after < downsampleAfterMin:
			return fmt.Errorf("downsample[%d].after is %s, it must be at least %s", i, model.Duration(after), model.Duration(downsampleAfterMin))
		case after <= age:
			return fmt.Errorf("downsample[%d].after is %s, it must be more than that of the rule before (%s)", i, model.Duration(after), model.Duration(age))
		case to <= step || to%step != 0:
			return fmt.Errorf("downsample[%d].to is %s, it must be a multiple of the step before (%s) and more than that", i, model.Duration(to), model.Duration(step))
		case 24*time.Hour%to != 0:
			return fmt.Errorf("downsample[%d].to is %s, it must divide a day", i, model.Duration(to))
		case to > time.Duration(s.IdleTimeout):
			return fmt.Errorf("downsample[%d].to is %s, it must be at most the idle_timeout (%s)", i, model.Duration(to), s.IdleTimeout)
		}
		step, age = to, after
	}
	return nil
}

// on returns those of r that fit a grid and an idle timeout.
func (r DownsampleRules) on(grid, idle model.Duration) DownsampleRules {
	var out DownsampleRules
	step := grid
	for _, one := range r {
		if to := model.Duration(one.To); to > step && to%step == 0 && to <= idle {
			out = append(out, one)
			step = to
		}
	}
	return out
}

// DownsampleStep is the width in milliseconds of the windows in which data is kept whose
// newest is of some time; 0: that of the grid.
func (s *Settings) DownsampleStep(newest, now time.Time) int64 {
	step := int64(0)
	for _, r := range s.Downsample {
		if newest.Add(time.Duration(r.After)).After(now) {
			break
		}
		step = time.Duration(r.To).Milliseconds()
	}
	return step
}
