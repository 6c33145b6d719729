package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// configLookEvery is how often the server looks whether the file has changed.
const configLookEvery = 5 * time.Second

// configs holds the configuration in force and reads it again. It is safe for concurrent
// use once all checks and subscribers are added.
type configs struct {
	path    string // "": there is no file, and nothing is said in it
	logger  *slog.Logger
	now     func() time.Time
	current atomic.Pointer[configFile]

	checks      []func(*configFile) error
	subscribers []func(old, new *configFile)
	// unasked is told of every reload that no request asked for: why, and how it failed.
	unasked func(why string, err error)

	mu    sync.Mutex // one reload at a time
	stamp string     // of the file that was read last, right or wrong

	last atomic.Pointer[configState]
}

// configState is how the file was when it was read last.
type configState struct {
	good   bool
	goodAt time.Time // when it was last
}

// newConfigs reads the file: a server does not start with one that is wrong.
func newConfigs(path string, logger *slog.Logger, now func() time.Time, reg prometheus.Registerer) (*configs, error) {
	c := &configs{
		path: path, logger: logger, now: now, unasked: func(string, error) {},
	}
	c.last.Store(&configState{})
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "quipu_config_last_reload_successful", Help: "Whether the configuration was right when it was read last.",
	}, func() float64 {
		if good, _ := c.state(); good {
			return 1
		}
		return 0
	}), prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "quipu_config_last_reload_success_timestamp_seconds", Help: "When the configuration was last read and right.",
	}, func() float64 {
		_, at := c.state()
		return float64(at.UnixMilli()) / 1000
	}))
	c.stamp = c.fileStamp()
	file, err := c.load()
	if err != nil {
		return nil, err
	}
	c.current.Store(file)
	c.wasGood()
	return c, nil
}

func (c *configs) load() (*configFile, error) {
	if c.path == "" {
		return &configFile{}, nil
	}
	return loadConfig(c.path)
}

// get returns the configuration in force, which is not to be changed.
func (c *configs) get() *configFile {
	if in := c.current.Load(); in != nil {
		return in
	}
	return &configFile{}
}

// check has a new configuration pass f before it is in force.
func (c *configs) check(f func(*configFile) error) { c.checks = append(c.checks, f) }

// subscribe has f called after every reload, in the order of subscription, also where the
// file says what it said before: what it names may have changed.
func (c *configs) subscribe(f func(old, new *configFile)) { c.subscribers = append(c.subscribers, f) }

// reload reads the file again. Where it is wrong, the one in force stays so.
func (c *configs) reload() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.read()
}

// REQUIRES: c.mu
func (c *configs) read() error {
	c.stamp = c.fileStamp() // before it is read: a change since then is seen
	file, err := c.load()
	for i := 0; err == nil && i < len(c.checks); i++ {
		err = c.checks[i](file)
	}
	if err != nil {
		c.last.Store(&configState{good: false, goodAt: c.last.Load().goodAt})
		c.logger.Error("the configuration is wrong, the one before stays in force", "err", err)
		return err
	}
	old := c.current.Swap(file)
	for _, f := range c.subscribers {
		f(old, file)
	}
	c.wasGood()
	c.logger.Info("the configuration is read again", "file", c.path)
	return nil
}

func (c *configs) wasGood() {
	c.last.Store(&configState{good: true, goodAt: c.now()})
}

// state returns whether the file was right when it was read last, and when it last was.
func (c *configs) state() (good bool, goodAt time.Time) {
	if s := c.last.Load(); s != nil {
		return s.good, s.goodAt
	}
	return true, time.Time{} // of no file
}

// reloadChanged reads the file again where its size or time is another than it was.
func (c *configs) reloadChanged() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.path == "" || c.fileStamp() == c.stamp {
		return
	}
	c.unasked("the file has changed", c.read())
}

// fileStamp is another when the file has changed. One that cannot be read has one of its
// own, so that this is said once.
func (c *configs) fileStamp() string {
	if c.path == "" {
		return ""
	}
	info, err := os.Stat(c.path)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d bytes of %d", info.Size(), info.ModTime().UnixNano())
}

// watch reloads at every signal, and at every tick where the file has changed, until ctx
// ends.
func (c *configs) watch(ctx context.Context, signals <-chan os.Signal, ticks <-chan time.Time) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-signals:
			c.unasked("SIGHUP", c.reload())
		case <-ticks:
			c.reloadChanged()
		}
	}
}

// watchAlways watches until stop is called, by the system's clock and its hang-up signal.
func (c *configs) watchAlways() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP)
	tick := time.NewTicker(configLookEvery)
	var watching sync.WaitGroup
	watching.Go(func() { c.watch(ctx, signals, tick.C) })
	return func() {
		signal.Stop(signals)
		tick.Stop()
		cancel()
		watching.Wait()
	}
}
