package tenant

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"
)

// idleTimeoutMax is the longest idle timeout: midnight ends every run.
const idleTimeoutMax = 24 * time.Hour

// IdleTimeouts are those of single metrics, by name, over that of all. What is shared is
// never changed.
type IdleTimeouts map[string]Duration

// String is what commands show.
func (t IdleTimeouts) String() string {
	all := make([]string, 0, len(t))
	for _, name := range slices.Sorted(maps.Keys(t)) {
		all = append(all, fmt.Sprintf("%s: %s", name, model.Duration(t[name])))
	}
	return "{" + strings.Join(all, ", ") + "}"
}

// IdleTimeoutOf is the idle timeout of a metric.
func (s *Settings) IdleTimeoutOf(metric string) time.Duration {
	if t, ok := s.IdleTimeouts[metric]; ok {
		return time.Duration(t)
	}
	return time.Duration(s.IdleTimeout)
}

// IdleTimeoutMost is the longest idle timeout that any metric has.
func (s *Settings) IdleTimeoutMost() time.Duration {
	most := s.IdleTimeout
	for _, t := range s.IdleTimeouts {
		most = max(most, model.Duration(t))
	}
	return time.Duration(most)
}

// validate says which timeout does not fit the grid.
func (t IdleTimeouts) validate(grid time.Duration) error {
	for _, name := range slices.Sorted(maps.Keys(t)) {
		if !model.UTF8Validation.IsValidMetricName(name) {
			return fmt.Errorf("idle_timeouts has %q, which is no name of a metric", name)
		}
		if err := checkIdle("idle_timeouts."+name, time.Duration(t[name]), grid); err != nil {
			return err
		}
	}
	return nil
}

func checkIdle(field string, idle, grid time.Duration) error {
	if idle < grid || idle%grid != 0 || idle > idleTimeoutMax {
		return fmt.Errorf("%s is %s, it must be a multiple of the grid (%s) and at most 1d", field, model.Duration(idle), model.Duration(grid))
	}
	return nil
}

// on returns t with each timeout raised to a multiple of the grid.
func (t IdleTimeouts) on(grid model.Duration) IdleTimeouts {
	if len(t) == 0 {
		return nil
	}
	out := maps.Clone(t)
	for name, idle := range out {
		out[name] = Duration(roundUp(model.Duration(idle), grid))
	}
	return out
}

// merge returns t changed by a JSON object: a metric that is null has the timeout of all
// again.
func (t IdleTimeouts) merge(object []byte) (IdleTimeouts, error) {
	if !bytes.HasPrefix(object, []byte("{")) {
		return nil, errors.New("a JSON object is needed")
	}
	var said map[string]*Duration
	if err := json.Unmarshal(object, &said); err != nil {
		return nil, err
	}
	out := maps.Clone(t)
	if out == nil {
		out = IdleTimeouts{}
	}
	for name, idle := range said {
		if idle == nil {
			delete(out, name)
			continue
		}
		out[name] = *idle
	}
	return out, nil
}
