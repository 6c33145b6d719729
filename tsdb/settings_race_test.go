package tsdb

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
)

// Whatever of the settings changes while batches come, by whomever: every acknowledged
// increment is counted once, also where the limits fold its series, and what is in force
// in the end is what was said last.
func TestSettingsChangeUnderAppends(t *testing.T) {
	db := openTestDB(t, "", func(o *Options) { o.FS = noSyncFS{} })
	if err := db.CreateTenant(settingsTenant, tenant.Patch{}); err != nil {
		t.Fatal(err)
	}
	const writers, batches, series = 4, 60, 15
	var writing, changing sync.WaitGroup
	for w := range writers {
		writing.Go(func() {
			for i := range batches {
				b := &increment.Batch{}
				for n := range series {
					b.Increments = append(b.Increments, counterInc("c_total", testStart, 1, "w", fmt.Sprint(w), "i", fmt.Sprint(i), "n", fmt.Sprint(n)))
				}
				if _, err := db.Append(context.Background(), settingsTenant, b); err != nil {
					t.Error(err)
				}
			}
		})
	}
	done := make(chan struct{})
	for _, change := range []func(i int) error{
		func(i int) error {
			_, err := db.ChangeSettings(settingsTenant, setting(fmt.Sprintf(`{"limits": {"series_per_metric": %d, "exemplars": %d}}`, 10+i%500, i%3)))
			return err
		},
		func(i int) error {
			d := tenant.DefaultSettings()
			d.Limits.Series = 10 + i%700
			return db.SetPolicy(&tenant.Policy{Defaults: d})
		},
		func(int) error { return db.ReloadSettings() },
		func(int) error {
			_, err := db.Usage(settingsTenant)
			return err
		},
	} {
		changing.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				default:
				}
				if err := change(i); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	writing.Wait()
	close(done)
	changing.Wait()
	if err := db.SetPolicy(&tenant.Policy{Defaults: tenant.DefaultSettings()}); err != nil {
		t.Fatal(err)
	}
	if s, err := db.Settings(settingsTenant); err != nil || s.Limits.Series != tenant.DefaultLimits().Series {
		t.Errorf("in the end the limit of series is %d, %v", s.Limits.Series, err)
	}
	sum := 0.0
	for _, v := range db.stored(settingsTenant) {
		sum += v
	}
	if sum != writers*batches*series {
		t.Errorf("%v are counted of %d", sum, writers*batches*series)
	}
}
