package api

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/gorilla/mux"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	v1 "github.com/prometheus/prometheus/web/api/v1"

	"github.com/quipudb/quipu/api/auth"
)

// deletionIDHeader has the ids of the deletions that a request made, with commas between.
const deletionIDHeader = "Quipu-Deletion-Id"

// States of a deletion. What is deleted is in no answer in any of them.
const (
	DeletionPending   = "pending"   // nothing has been rewritten yet
	DeletionRewriting = "rewriting" // what holds it is being rewritten
	DeletionFailed    = "failed"    // a rewriting failed, and is tried again
	DeletionDone      = "done"      // it is on the disk no more, but in snapshots
)

// Deletion is how far a deletion is.
type Deletion struct {
	ID    uint64 `json:"id"`
	State string `json:"state"`
	// Left is how many blocks, and parts of the memory, are to be looked at or rewritten.
	Left  int    `json:"left"`
	Error string `json:"error,omitempty"` // of a failed one
	// Match, Start, End and Accepted are what was deleted and when; "" of one that was done
	// before the server's start. Start and End are "" also where there was no bound.
	Match    string `json:"match,omitempty"`
	Start    string `json:"start,omitempty"`
	End      string `json:"end,omitempty"`
	Accepted string `json:"accepted,omitempty"`
}

// ErasedUsers is what became of a tenant's user ids.
type ErasedUsers struct {
	Time string `json:"time"`
	// Keys is how many keys the tenant has had.
	Keys int `json:"keys"`
	// Snapshots have the tenant with a key that was destroyed.
	Snapshots []string `json:"snapshots"`
	Note      string   `json:"note"`
}

// erasedNote says what an erasure is and is not.
const erasedNote = "Hashes of user ids that are stored cannot be told to be anybody's any more. What was counted stays as it is: " +
	"no event, session or user can be subtracted from counts, histograms and distinct counts. Who was counted before is counted as somebody new from now on. " +
	"Labels, events sent elsewhere and the snapshots named here are not changed: delete those snapshots, and copies of them."

// dataRoutes are about what is stored of the tenant of who asks.
func (a *api) dataRoutes() []endpoint {
	if a.admin == nil {
		return nil
	}
	need := auth.Any(auth.Admin)
	route := func(path string, h http.HandlerFunc, methods ...string) endpoint {
		return endpoint{path: path, handler: a.ours(path, need, a.withMethods(h, methods...))}
	}
	return []endpoint{
		route("/api/v1/admin/tsdb/deletions", a.deletions, http.MethodGet, http.MethodHead),
		route("/api/v1/admin/tsdb/deletions/{id}", a.deletion, http.MethodGet, http.MethodHead),
		route("/api/v1/admin/event-rules/{name}/delete_data", a.deleteRuleData, http.MethodPost),
		route("/api/v1/admin/users/erase", a.eraseUsers, http.MethodPost),
	}
}

// setDeletionIDs says which deletions a request made.
func setDeletionIDs(w http.ResponseWriter, numbers []uint64) {
	texts := make([]string, 0, len(numbers))
	for _, n := range numbers {
		if n > 0 {
			texts = append(texts, strconv.FormatUint(n, 10))
		}
	}
	if len(texts) > 0 {
		w.Header().Set(deletionIDHeader, strings.Join(texts, ", "))
	}
}

// deletions answers GET /api/v1/admin/tsdb/deletions.
func (a *api) deletions(w http.ResponseWriter, r *http.Request) {
	all, err := a.admin.Deletions(tenantOf(r))
	if err != nil {
		a.respondAdminError(w, err)
		return
	}
	if all == nil {
		all = []Deletion{}
	}
	respondJSON(w, a.logger, http.StatusOK, success{Status: "success", Data: struct {
		Deletions []Deletion `json:"deletions"`
	}{all}})
}

// deletion answers GET /api/v1/admin/tsdb/deletions/{id}.
func (a *api) deletion(w http.ResponseWriter, r *http.Request) {
	text := mux.Vars(r)["id"]
	number, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		respondError(w, a.logger, http.StatusBadRequest, errorBadData, fmt.Sprintf("%q is not the id of a deletion, a number", text))
		return
	}
	d, ok, err := a.admin.Deletion(tenantOf(r), number)
	switch {
	case err != nil:
		a.respondAdminError(w, err)
	case !ok:
		respondError(w, a.logger, http.StatusNotFound, errorNotFound, fmt.Sprintf("there was no deletion %d", number))
	default:
		respondJSON(w, a.logger, http.StatusOK, success{Status: "success", Data: d})
	}
}

// deletedRule is the answer of a deletion of what a rule made.
type deletedRule struct {
	Metrics   []string `json:"metrics"`
	Deletions []uint64 `json:"deletions"`
}

// deleteRuleData answers POST /api/v1/admin/event-rules/{name}/delete_data: it deletes what
// is stored under the names of the metrics that one of the rules in force makes.
func (a *api) deleteRuleData(w http.ResponseWriter, r *http.Request) {
	start, err := timeParam(r, "start", v1.MinTime)
	end, endErr := timeParam(r, "end", v1.MaxTime)
	if err = errors.Join(err, endErr); err != nil {
		respondError(w, a.logger, http.StatusBadRequest, errorBadData, err.Error())
		return
	}
	rules, err := a.rules.Metrics(tenantOf(r))
	if err != nil {
		a.respondRules(w, nil, err)
		return
	}
	name := mux.Vars(r)["name"]
	out := deletedRule{Metrics: []string{}, Deletions: []uint64{}}
	var selectors [][]*labels.Matcher
	for _, m := range rules {
		if m.Rule == name {
			out.Metrics = append(out.Metrics, m.Metric)
			selectors = append(selectors, []*labels.Matcher{labels.MustNewMatcher(labels.MatchEqual, model.MetricNameLabel, m.Metric)})
		}
	}
	if len(selectors) == 0 {
		respondError(w, a.logger, http.StatusNotFound, errorNotFound,
			fmt.Sprintf("no event rule in force is named %q: what one made that is gone can be deleted by its metric's name, at admin/tsdb/delete_series", name))
		return
	}
	numbers, err := a.deleteAll(r, start, end, selectors)
	auth.Audit(r.Context(), "delete data of event rule", fmt.Sprintf("%s, from %s to %s", name, timeText(start), timeText(end)), err)
	setDeletionIDs(w, numbers)
	if err != nil {
		if n := len(numbers); n > 0 {
			err = fmt.Errorf("%s; %s are deleted: %w", out.Metrics[n], strings.Join(out.Metrics[:n], ", "), err)
		}
		a.respondAdminError(w, err)
		return
	}
	for _, n := range numbers {
		if n > 0 {
			out.Deletions = append(out.Deletions, n)
		}
	}
	respondJSON(w, a.logger, http.StatusOK, success{Status: "success", Data: out})
}

// eraseUsers answers POST /api/v1/admin/users/erase.
func (a *api) eraseUsers(w http.ResponseWriter, r *http.Request) {
	erased, err := a.admin.EraseUsers(r.Context(), tenantOf(r))
	auth.Audit(r.Context(), "erase users", "", err)
	if err != nil {
		a.respondAdminError(w, err)
		return
	}
	erased.Note = erasedNote
	if erased.Snapshots == nil {
		erased.Snapshots = []string{}
	}
	respondJSON(w, a.logger, http.StatusOK, success{Status: "success", Data: erased})
}
