package importer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/quipudb/quipu/internal/client"
)

// Poster takes a batch of events; *client.Client is one.
type Poster interface {
	PostEvents(ctx context.Context, b client.Batch) (client.Verdicts, error)
}

// Options are how to import.
type Options struct {
	// Files are the logs, in the order given; "-" is Stdin. Each may be gzipped.
	Files []string
	Stdin io.Reader
	// BatchLines is the number of lines of one request.
	BatchLines int
	// Concurrency is the number of requests in flight.
	Concurrency int
	Retry       client.Retry

	// ShiftToNow moves all times so that the newest line is of Now.
	ShiftToNow bool
	Now        time.Time
	// StateDir keeps the shift of an import until it is complete; Target names
	// the server and tenant that the import goes to.
	StateDir, Target string
}

func (o Options) validate() error {
	switch {
	case len(o.Files) == 0:
		return errors.New("no file to import")
	case o.BatchLines < 1 || o.BatchLines > 100_000:
		return fmt.Errorf("batch size is %d, it must be 1 to 100000 lines", o.BatchLines)
	case o.Concurrency < 1 || o.Concurrency > 64:
		return fmt.Errorf("concurrency is %d, it must be 1 to 64", o.Concurrency)
	}
	stdins := 0
	for _, name := range o.Files {
		if name == stdinName {
			stdins++
			continue
		}
		// All of them, before the first is sent.
		if info, err := os.Stat(name); err != nil {
			return fmt.Errorf("open log: %w", err)
		} else if info.IsDir() {
			return fmt.Errorf("open log: %s is a directory", name)
		}
	}
	if stdins > 1 {
		return errors.New(`standard input ("-") is named more than once`)
	}
	return nil
}

// Run imports all files. The summary is right also when there is an error;
// after one, the same import may be run again.
func Run(ctx context.Context, post Poster, progress *Progress, o Options) (Summary, error) {
	if err := o.validate(); err != nil {
		return Summary{}, err
	}
	r := &run{Options: o, post: post, progress: progress, started: time.Now()}
	complete := func() error { return nil }
	if o.ShiftToNow {
		forget, err := r.spoolStdin()
		if err != nil {
			return Summary{}, err
		}
		defer forget()
		state, err := r.chooseShift()
		if err != nil {
			return Summary{}, err
		}
		complete = state.remove
	}
	progress.expect(storedSize(r.Files))
	err := r.run(ctx)
	progress.finish()
	if err == nil {
		for _, note := range r.short {
			progress.Printf("%s", note)
		}
	}
	r.summary.Took = time.Since(r.started)
	if err == nil {
		err = complete()
	}
	return r.summary, err
}

// run is one import on its way.
type run struct {
	Options
	post        Poster
	progress    *Progress
	started     time.Time
	shiftMillis int64
	short       []string // a note for each file that ends in a short batch (P5)

	mu      sync.Mutex
	summary Summary
}

// run reads in one goroutine and sends in several. The first batch that cannot
// be sent ends the import; a file that cannot be read ends it when what was
// read before has been sent.
func (r *run) run(ctx context.Context) error {
	group, sending := errgroup.WithContext(ctx)
	batches := make(chan *batch)
	var readErr error
	group.Go(func() error {
		defer close(batches)
		readErr = r.read(sending, batches)
		return nil
	})
	for range r.Concurrency {
		group.Go(func() error {
			for b := range batches {
				if err := r.send(sending, b); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err := group.Wait()
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	return errors.Join(err, readErr)
}

// read cuts the files into batches until their end or that of ctx.
func (r *run) read(ctx context.Context, batches chan<- *batch) error {
	for _, name := range r.Files {
		in, err := openInput(name, r.Stdin)
		if err != nil {
			return err
		}
		cut := &batcher{in: in, lines: r.BatchLines, shifted: r.ShiftToNow, shiftMillis: r.shiftMillis, unparsed: r.unparsed}
		events, last := 0, (*batch)(nil)
		for {
			b, err := cut.next()
			if err == io.EOF {
				r.endOf(in, events, last)
				break
			}
			if err != nil {
				in.close()
				return err
			}
			events, last = events+len(b.events), b
			r.mu.Lock()
			r.summary.Lines += b.lines()
			r.mu.Unlock()
			select {
			case batches <- b:
			case <-ctx.Done():
				in.close()
				return nil // the sender's error says why
			}
		}
		if err := in.close(); err != nil {
			return fmt.Errorf("close %s: %w", name, err)
		}
	}
	return nil
}

// endOf remarks on a file that was read to its end: last is its last batch, nil
// where it has none.
func (r *run) endOf(in *input, events int, last *batch) {
	switch {
	case last == nil:
	case events == 0:
		r.mu.Lock()
		r.summary.Foreign = append(r.summary.Foreign, in.name)
		r.mu.Unlock()
	case last.lines() < r.BatchLines && len(last.events) > 0 && !in.gzipped:
		// A log is compressed when it is complete: it does not grow.
		lines := fmt.Sprintf("the last %s lines are", thousands(last.lines()))
		if last.lines() == 1 {
			lines = "the last line is"
		}
		r.short = append(r.short, fmt.Sprintf("%s: %s one short batch: if this file still grows, import it again only after it is rotated", in.name, lines))
	}
}

// unparsedShown is how many lines are named; a file of another format would
// otherwise fill the terminal.
const unparsedShown = 20

func (r *run) unparsed(file string, number int, err error) {
	r.mu.Lock()
	r.summary.Unparsed++
	n := r.summary.Unparsed
	r.mu.Unlock()
	switch {
	case n <= unparsedShown:
		r.progress.Printf("%s:%d: not counted: %v", file, number, err)
	case n == unparsedShown+1:
		r.progress.Printf("more lines are not counted; the summary says how many")
	}
}

// send posts one batch, again while the reason passes.
func (r *run) send(ctx context.Context, b *batch) error {
	if len(b.events) == 0 {
		r.progress.add(b)
		return nil
	}
	body, err := b.encode()
	if err != nil {
		return err
	}
	retry := r.Retry
	retry.Notify = func(err error, wait time.Duration) {
		r.progress.Printf("lines %d to %d of %s: %v; trying again in %s", b.first, b.last, b.file, err, wait.Round(time.Millisecond))
	}
	var verdicts client.Verdicts
	err = retry.Do(ctx, func() (err error) {
		verdicts, err = r.post.PostEvents(ctx, body)
		return err
	})
	if err != nil {
		return fmt.Errorf("send lines %d to %d of %s: %w", b.first, b.last, b.file, err)
	}
	r.mu.Lock()
	r.summary.add(b, verdicts)
	r.mu.Unlock()
	r.progress.add(b)
	return nil
}

// spoolStdin copies standard input, if it is to be read, to a file, because the
// newest line must be known before the first is sent. The function it returns
// removes the copy.
func (r *run) spoolStdin() (forget func(), err error) {
	i := slices.Index(r.Files, stdinName)
	if i < 0 {
		return func() {}, nil
	}
	spool, err := os.CreateTemp("", "quipu-import-*.log")
	if err != nil {
		return nil, fmt.Errorf("copy standard input: %w", err)
	}
	_, err = io.Copy(spool, r.Stdin)
	if err = errors.Join(err, spool.Close()); err != nil {
		os.Remove(spool.Name())
		return nil, fmt.Errorf("copy standard input: %w", err)
	}
	r.Files = slices.Clone(r.Files)
	r.Files[i] = spool.Name()
	return func() { os.Remove(spool.Name()) }, nil
}

// chooseShift resumes the shift of an import that was not completed, or makes a
// new one and keeps it.
func (r *run) chooseShift() (shiftState, error) {
	s, err := surveyFiles(r.Files, r.Stdin)
	if err != nil {
		return shiftState{}, err
	}
	state := newShiftState(r.StateDir, r.Target, s.fingerprint)
	millis, resumed, err := state.load()
	if err != nil {
		return shiftState{}, err
	}
	if resumed {
		r.shiftMillis = millis
		r.progress.Printf("resuming: times are shifted as in the import that was interrupted")
		return state, nil
	}
	r.shiftMillis = r.Now.UnixMilli() - s.newestMillis
	return state, state.save(r.shiftMillis, r.Now)
}

// storedSize is the size of all files, 0 when one has none.
func storedSize(files []string) int64 {
	var sum int64
	for _, name := range files {
		info, err := os.Stat(name)
		if name == stdinName || err != nil || !info.Mode().IsRegular() {
			return 0
		}
		sum += info.Size()
	}
	return sum
}
