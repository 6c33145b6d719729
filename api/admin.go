package api

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/timestamp"
	v1 "github.com/prometheus/prometheus/web/api/v1"

	"github.com/quipudb/quipu/api/auth"
	"github.com/quipudb/quipu/internal/overload"
	"github.com/quipudb/quipu/internal/tenant"
)

// Admin changes what is stored of a tenant. Errors are ErrBadSelector, tenant.ErrUnknown,
// an *overload.Error, or what has failed.
type Admin interface {
	// Delete deletes what the matchers select between mint and maxt, in milliseconds
	// since 1970 and both included. It is in no answer any more when it returns the
	// deletion's number, 0 where there was nothing; the disk is given back later.
	Delete(ctx context.Context, id tenant.ID, mint, maxt int64, matchers ...*labels.Matcher) (number uint64, err error)
	// Deletions are those that are not done and the last of those that are, the oldest
	// first; Deletion is one by its number, and false where there was none.
	Deletions(id tenant.ID) ([]Deletion, error)
	Deletion(id tenant.ID, number uint64) (d Deletion, ok bool, err error)
	// EraseUsers destroys the key under which user ids are hashed.
	EraseUsers(ctx context.Context, id tenant.ID) (ErasedUsers, error)
	// CleanTombstones removes from disk what was deleted.
	CleanTombstones(ctx context.Context, id tenant.ID) error
	// Snapshot makes a copy of the tenant's data, without what only memory has where
	// skipHead is set, and returns its name.
	Snapshot(ctx context.Context, id tenant.ID, skipHead bool) (name string, err error)
}

// ErrBadSelector says that what is to be deleted cannot be.
var ErrBadSelector = errors.New("this cannot be deleted")

// deleteSeries answers POST and PUT of /api/v1/admin/tsdb/delete_series. All selectors
// are understood before anything is deleted.
func (a *api) deleteSeries(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		respondError(w, a.logger, http.StatusBadRequest, errorBadData, fmt.Sprintf("error parsing form values: %v", err))
		return
	}
	if len(r.Form["match[]"]) == 0 {
		respondError(w, a.logger, http.StatusBadRequest, errorBadData, "no match[] parameter provided")
		return
	}
	start, err := timeParam(r, "start", v1.MinTime)
	end, endErr := timeParam(r, "end", v1.MaxTime)
	if err = errors.Join(err, endErr); err != nil {
		respondError(w, a.logger, http.StatusBadRequest, errorBadData, err.Error())
		return
	}
	var selectors [][]*labels.Matcher
	for _, text := range r.Form["match[]"] {
		matchers, err := a.parser.ParseMetricSelector(text)
		if err != nil {
			respondError(w, a.logger, http.StatusBadRequest, errorBadData, fmt.Sprintf("invalid parameter \"match[]\": %v", err))
			return
		}
		if allMatchEmpty(matchers) {
			respondError(w, a.logger, http.StatusBadRequest, errorBadData, fmt.Sprintf("match[]=%s selects everything: it must contain at least one non-empty matcher", text))
			return
		}
		selectors = append(selectors, matchers)
	}
	numbers, err := a.deleteAll(r, start, end, selectors)
	auth.Audit(r.Context(), "delete series", fmt.Sprintf("%d selectors, from %s to %s", len(selectors), timeText(start), timeText(end)), err)
	setDeletionIDs(w, numbers)
	if err != nil {
		if n := len(numbers); n > 0 {
			err = fmt.Errorf("match[] number %d, those before it are deleted: %w", n+1, err)
		}
		a.respondAdminError(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// deleteAll deletes what selectors select, one after the other, and returns the numbers of
// the deletions, also of those before one that fails.
func (a *api) deleteAll(r *http.Request, start, end int64, selectors [][]*labels.Matcher) (numbers []uint64, err error) {
	for _, matchers := range selectors {
		n, err := a.admin.Delete(r.Context(), tenantOf(r), start, end, matchers...)
		if err != nil {
			return numbers, err
		}
		numbers = append(numbers, n)
	}
	return numbers, nil
}

// allMatchEmpty reports whether matchers ask for nothing that a series must have.
func allMatchEmpty(matchers []*labels.Matcher) bool {
	return !slices.ContainsFunc(matchers, func(m *labels.Matcher) bool { return !m.Matches("") })
}

// cleanTombstones answers POST and PUT of /api/v1/admin/tsdb/clean_tombstones.
func (a *api) cleanTombstones(w http.ResponseWriter, r *http.Request) {
	err := a.admin.CleanTombstones(r.Context(), tenantOf(r))
	auth.Audit(r.Context(), "clean tombstones", "", err)
	if err != nil {
		a.respondAdminError(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// snapshot answers POST and PUT of /api/v1/admin/tsdb/snapshot.
func (a *api) snapshot(w http.ResponseWriter, r *http.Request) {
	skipHead := false
	if s := r.FormValue("skip_head"); s != "" {
		var err error
		if skipHead, err = strconv.ParseBool(s); err != nil {
			respondError(w, a.logger, http.StatusBadRequest, errorBadData, fmt.Sprintf("invalid parameter \"skip_head\": unable to parse boolean: %v", err))
			return
		}
	}
	name, err := a.admin.Snapshot(r.Context(), tenantOf(r), skipHead)
	auth.Audit(r.Context(), "make snapshot", name, err)
	if err != nil {
		a.respondAdminError(w, fmt.Errorf("create snapshot: %w", err))
		return
	}
	respondJSON(w, a.logger, http.StatusOK, success{Status: "success", Data: struct {
		Name string `json:"name"`
	}{name}})
}

func (a *api) respondAdminError(w http.ResponseWriter, err error) {
	_, overloaded := errors.AsType[*overload.Error](err)
	switch {
	case overloaded:
		a.respondUnavailable(w, err)
	case tenant.IsRefusal(err):
		a.respondTenantError(w, err)
	case errors.Is(err, ErrNoSnapshot):
		respondError(w, a.logger, http.StatusNotFound, errorNotFound, err.Error())
	case errors.Is(err, tenant.ErrExists):
		a.respondTenantError(w, err)
	case errors.Is(err, ErrBadSelector):
		respondError(w, a.logger, http.StatusBadRequest, errorBadData, err.Error())
	default:
		respondError(w, a.logger, http.StatusInternalServerError, errorInternal, err.Error())
	}
}

// timeText is a time in milliseconds since 1970 as the audit log says it: the first and
// the last that there are have years that nobody reads.
func timeText(ms int64) string {
	switch ms {
	case timestamp.FromTime(v1.MinTime):
		return "the first"
	case timestamp.FromTime(v1.MaxTime):
		return "the last"
	}
	return timestamp.Time(ms).UTC().Format(time.RFC3339)
}

// absent answers where nothing can change what is stored.
func (a *api) absent(w http.ResponseWriter, r *http.Request) {
	respondError(w, a.logger, http.StatusNotFound, errorNotFound, fmt.Sprintf("%s is not available: this server deletes nothing and makes no snapshots", r.URL.Path))
}

// timeParam reads a time as Prometheus's API does: seconds since 1970 or RFC 3339. It
// returns milliseconds since 1970.
func timeParam(r *http.Request, name string, absent time.Time) (int64, error) {
	text := r.FormValue(name)
	if text == "" {
		return timestamp.FromTime(absent), nil
	}
	first, last := timestamp.FromTime(v1.MinTime), timestamp.FromTime(v1.MaxTime)
	if seconds, err := strconv.ParseFloat(text, 64); err == nil && !math.IsNaN(seconds) {
		// Times past the first and last that there are, infinite ones too, are these.
		switch ms := math.Round(seconds * 1000); {
		case ms <= float64(first):
			return first, nil
		case ms >= float64(last):
			return last, nil
		default:
			return int64(ms), nil
		}
	}
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return timestamp.FromTime(t), nil
	}
	for _, t := range []time.Time{v1.MinTime, v1.MaxTime} { // whose years the parser does not take
		if text == t.Format(time.RFC3339Nano) {
			return timestamp.FromTime(t), nil
		}
	}
	return 0, fmt.Errorf("invalid parameter %q: cannot parse %q to a valid timestamp", name, text)
}
