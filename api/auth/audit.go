package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/quipudb/quipu/internal/scope"
	"github.com/quipudb/quipu/internal/tenant"
)

const (
	auditFileBytesMax = 16 << 20
	// auditFilesMax is how many full files are kept beside the one that is written.
	auditFilesMax = 4
)

// AuditLog is the file that says who did what, a JSON object a line. When it is full it
// becomes FILE.1, and what was FILE.1 becomes FILE.2; the oldest goes. Safe for
// concurrent use; nil writes nothing.
type AuditLog struct {
	name     string
	bytesMax int64
	now      func() time.Time
	logger   *slog.Logger

	mu   sync.Mutex
	file *os.File // nil: closed, or not opened again yet
	size int64
	// closed: Close was called.
	closed bool
}

// auditLine is what one line says. No field may have what a client sent, other than what
// was found to be an id of something that there is.
type auditLine struct {
	Time    time.Time `json:"time"`
	Act     string    `json:"act"`
	Who     string    `json:"who,omitempty"`    // id of a key, subject of a token, name of a user
	Issuer  string    `json:"issuer,omitempty"` // of the token; "key" or "user"
	Tenant  string    `json:"tenant,omitempty"`
	Client  string    `json:"client,omitempty"`
	Route   string    `json:"route,omitempty"`
	Outcome string    `json:"outcome"`
	Detail  string    `json:"detail,omitempty"`
	// Suppressed is how many refusals of the client were not written before this line.
	Suppressed int `json:"suppressed,omitempty"`
}

// OpenAuditLog opens or makes a log, and the directory that it is in.
func OpenAuditLog(name string, now func() time.Time, logger *slog.Logger) (*AuditLog, error) {
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of the audit log: %w", err)
	}
	l := &AuditLog{name: name, bytesMax: auditFileBytesMax, now: now, logger: logger}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l, l.open()
}

// REQUIRES: l.mu
func (l *AuditLog) open() error {
	f, err := os.OpenFile(l.name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open the audit log: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(fmt.Errorf("open the audit log: %w", err), f.Close())
	}
	l.file, l.size = f, info.Size()
	return nil
}

// Close closes the file; what is written later is lost, and said so in the process's log.
func (l *AuditLog) Close() error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file = nil
	return err
}

// Context returns a context for what the process does by itself, such as reading a
// configuration that has changed.
func (l *AuditLog) Context(ctx context.Context) context.Context {
	return With(ctx, &Request{Subject: &Subject{ID: "quipu", Issuer: "process"}, Log: l})
}

// write writes a line. sync has it on the disk before write returns.
func (l *AuditLog) write(line *auditLine, sync bool) {
	if l == nil {
		return
	}
	line.Time = l.now().UTC()
	text, err := json.Marshal(line)
	if err != nil {
		l.logger.Error("an act is not written to the audit log", "act", line.Act, "err", err)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.append(append(text, '\n'), sync); err != nil {
		l.logger.Error("an act is not written to the audit log", "act", line.Act, "err", err)
	}
}

// REQUIRES: l.mu
func (l *AuditLog) append(text []byte, sync bool) error {
	if l.closed {
		return errors.New("the log is closed")
	}
	if l.file == nil { // it could not be opened when it was rotated
		if err := l.open(); err != nil {
			return err
		}
	}
	if l.size > 0 && l.size+int64(len(text)) > l.bytesMax {
		err := l.rotate()
		if l.file == nil {
			return err
		}
		if err != nil {
			l.logger.Error("the audit log is not rotated", "err", err)
		}
	}
	n, err := l.file.Write(text)
	l.size += int64(n)
	if err == nil && sync {
		err = l.file.Sync()
	}
	return err
}

// REQUIRES: l.mu
func (l *AuditLog) rotate() error {
	err := l.file.Close()
	l.file = nil
	for i := auditFilesMax - 1; i >= 0; i-- {
		from := l.name
		if i > 0 {
			from = fmt.Sprintf("%s.%d", l.name, i)
		}
		if e := os.Rename(from, fmt.Sprintf("%s.%d", l.name, i+1)); e != nil && !errors.Is(e, os.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return errors.Join(err, l.open())
}

// Audit writes that whoever ctx is of did something; err is how it failed, nil that it did
// not. detail says to what it was done: ids and numbers, never what a client sent
// otherwise. The API writes a line by itself for what is done at an administrative route
// that does not call Audit.
func Audit(ctx context.Context, act, detail string, err error) {
	r := requestOf(ctx)
	if r == nil || r.Log == nil {
		return
	}
	outcome := "done"
	if err != nil {
		outcome = "failed"
	}
	r.write(ctx, act, detail, outcome)
}

// AuditAnswer writes that a request to an administrative route was answered with a status,
// unless its handler has said what was done there. id is what the route's path names: it
// is written only where that was found, since it may be anything otherwise.
func AuditAnswer(ctx context.Context, method string, status int, id string) {
	r := requestOf(ctx)
	if r == nil || r.Log == nil || r.audited.Load() {
		return
	}
	outcome := "done"
	if status >= 400 {
		outcome, id = fmt.Sprintf("failed with %d", status), ""
	}
	r.write(ctx, method+" "+r.Route, id, outcome)
}

func (r *Request) write(ctx context.Context, act, detail, outcome string) {
	r.audited.Store(true)
	line := &auditLine{Act: act, Who: r.Subject.ID, Issuer: r.Subject.Issuer, Client: r.Client, Route: r.Route, Outcome: outcome, Detail: detail}
	if s, ok := scope.From(ctx); ok {
		line.Tenant = s.Tenant.String()
	} else if r.Subject.Tenant != (tenant.ID{}) {
		line.Tenant = r.Subject.Tenant.String()
	}
	r.Log.write(line, true)
}
