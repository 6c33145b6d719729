package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/valyala/fastjson"

	"github.com/quipudb/quipu/ingest"
	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/load"
	"github.com/quipudb/quipu/internal/tenant"
)

const (
	// aloneBatches different batches go round for aloneTime.
	aloneBatches = 50
	aloneTime    = 2 * time.Second
)

// alone measures, in this process and on one goroutine, what an event costs without a
// server: to parse it, to count it by the means that are at hand, and in our ingestion
// with a store that keeps nothing.
func (b *bench) alone() error {
	bodies, err := load.Bodies(load.Options{Format: "plain", Batch: batchEvents}, aloneBatches)
	if err != nil {
		return err
	}
	size := float64(len(bodies[0])) / batchEvents
	b.print(figure{name: "event_size", value: size, unit: "bytes"})

	var parser fastjson.Parser
	if err := b.event("parse_fastjson", "the floor of a decoder that makes a tree", bodies, func(body []byte) error {
		_, err := parser.ParseBytes(body)
		return err
	}); err != nil {
		return err
	}
	o := newObvious()
	if err := b.event("obvious_means", "encoding/json into maps, WithLabelValues, a map of users; nothing is stored", bodies, o.batch); err != nil {
		return err
	}
	plain, err := ingest.FormatNamed("plain")
	if err != nil {
		return err
	}
	for _, of := range []struct{ name, rules string }{{"ingest_alone", rules}, {"ingest_alone_dedup", "dedup: event_id\n" + rules}} {
		g, err := ingest.New(ingest.Options{Store: nowhere{tenant.DefaultSettings()}, Rules: fixedRules(of.rules), Registerer: prometheus.NewRegistry()})
		if err != nil {
			return err
		}
		if err := b.event(of.name, "decoded, matched and coalesced, then dropped", bodies, func(body []byte) error {
			post, err := plain.Open(&ingest.Request{Body: body})
			if err != nil {
				return err
			}
			r, err := g.Events(b.ctx, tenant.Default, post, "")
			if err == nil && r.Accepted != batchEvents {
				err = fmt.Errorf("%+v", r)
			}
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

// event prints the CPU time of f for an event, once it has seen all bodies.
func (b *bench) event(name, note string, bodies [][]byte, f func(body []byte) error) error {
	events := 0
	round := func() error {
		for _, body := range bodies {
			if err := f(body); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			events += batchEvents
		}
		return b.ctx.Err()
	}
	if err := round(); err != nil {
		return err
	}
	runtime.GC()
	events = 0
	before, err := load.OwnCPU()
	if err != nil {
		return err
	}
	for start := time.Now(); time.Since(start) < aloneTime; {
		if err := round(); err != nil {
			return err
		}
	}
	after, err := load.OwnCPU()
	b.print(figure{name: name, value: float64((after - before).Nanoseconds()) / float64(events), unit: "cpu-ns/event", note: note})
	return err
}

// obvious counts what the rules count as one would without thinking of speed.
type obvious struct {
	views    *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	visitors map[string]map[string]struct{}
}

func newObvious() *obvious {
	return &obvious{
		views:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "page_views_total"}, []string{"event", "page", "country", "device"}),
		seconds:  prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "page_load_seconds"}, []string{"device"}),
		visitors: map[string]map[string]struct{}{},
	}
}

func (o *obvious) batch(body []byte) error {
	var events []map[string]any
	if err := json.NewDecoder(bytes.NewReader(body)).Decode(&events); err != nil {
		return err
	}
	for _, e := range events {
		data, ok := e["data"].(map[string]any)
		further, ok2 := data["further_data"].(map[string]any)
		if !ok || !ok2 {
			return fmt.Errorf("no event: %v", e)
		}
		text := func(from map[string]any, name string) string { s, _ := from[name].(string); return s }
		country, device := text(further, "country"), text(further, "device")
		o.views.WithLabelValues(text(further, "event"), text(further, "page"), country, device).Inc()
		if ms, ok := further["duration_ms"].(float64); ok {
			o.seconds.WithLabelValues(device).Observe(ms / 1000)
		}
		users := o.visitors[country]
		if users == nil {
			users = map[string]struct{}{}
			o.visitors[country] = users
		}
		users[strings.Clone(text(data, "user_id"))] = struct{}{}
	}
	return nil
}

// fixedRules are every tenant's.
type fixedRules string

func (f fixedRules) EventRules(_ tenant.ID, have string) (ingest.RuleText, bool, error) {
	return ingest.RuleText{Name: "rules", Text: []byte(f), Stamp: "1"}, have != "1", nil
}

func (fixedRules) SetEventRules(tenant.ID, []byte) error { return nil }

// nowhere is a store that keeps nothing.
type nowhere struct{ tenant.Settings }

func (n nowhere) Tenant(tenant.ID) (tenant.Profile, error) {
	return tenant.Profile{Settings: n.Settings}, nil
}

func (nowhere) Reserve([][16]byte) (increment.Reservation, error) { return allNew{}, nil }

func (nowhere) Append(context.Context, tenant.ID, *increment.Batch) (bool, error) { return false, nil }

// allNew is a reservation of ids that were never seen.
type allNew struct{}

func (allNew) Duplicate(int) bool { return false }
func (allNew) Settle(bool)        {}
