package importer

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/quipudb/quipu/internal/accesslog"
)

// survey is what a first pass over all files finds out.
type survey struct {
	// newestMillis is the time of the newest line. The newest and not the last
	// one: a log is written when requests end, so its last line is rarely its
	// newest, and nothing may be moved into the future.
	newestMillis int64
	// fingerprint identifies the content of all files together.
	fingerprint string
}

var errNoTime = errors.New("no line has a time to shift")

func surveyFiles(names []string, stdin io.Reader) (survey, error) {
	var s survey
	found := false
	content := sha256.New()
	for _, name := range names {
		in, err := openInput(name, stdin)
		if err != nil {
			return survey{}, err
		}
		for {
			l, err := in.next()
			if err == io.EOF {
				break
			}
			if err != nil {
				in.close()
				return survey{}, err
			}
			keyHash{content}.add(l)
			if e, err := accesslog.Parse(l.text); err == nil && !l.tooLong() {
				if !found || e.TimeMillis > s.newestMillis {
					s.newestMillis, found = e.TimeMillis, true
				}
			}
		}
		in.close()
		fmt.Fprintf(content, "end of file at %d\n", in.offset)
	}
	if !found {
		return survey{}, errNoTime
	}
	s.fingerprint = hex.EncodeToString(content.Sum(nil))
	return s, nil
}

// shiftState is the file that keeps a shift until its import is complete.
type shiftState struct {
	path string
}

// savedShift is what the file holds.
type savedShift struct {
	ShiftMillis int64     `json:"shift_ms"`
	Made        time.Time `json:"made"`
}

// newShiftState names the file of one import: into a server and tenant, of
// files with this fingerprint.
func newShiftState(dir, target, fingerprint string) shiftState {
	id := sha256.Sum256([]byte(target + "\x00" + fingerprint))
	return shiftState{filepath.Join(dir, "import-"+hex.EncodeToString(id[:16])+".json")}
}

// load returns the shift of an import that was not completed, if there is one.
func (s shiftState) load() (millis int64, ok bool, err error) {
	content, err := os.ReadFile(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("read the shift of the import to resume: %w", err)
	}
	var saved savedShift
	if err := json.Unmarshal(content, &saved); err != nil {
		return 0, false, fmt.Errorf("read the shift of the import to resume from %s: %w; remove the file to start again, and what was imported counts twice", s.path, err)
	}
	return saved.ShiftMillis, true, nil
}

// save makes the shift durable before anything is sent with it (P4).
func (s shiftState) save(millis int64, now time.Time) error {
	content, err := json.Marshal(savedShift{ShiftMillis: millis, Made: now})
	if err != nil {
		return fmt.Errorf("save the shift: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(s.path), 0o700); err != nil {
		return fmt.Errorf("save the shift: %w", err)
	}
	// A rename, so that a file that is there is whole.
	temporary := s.path + ".tmp"
	if err := os.WriteFile(temporary, content, 0o600); err != nil {
		return fmt.Errorf("save the shift: %w", err)
	}
	if err := os.Rename(temporary, s.path); err != nil {
		return fmt.Errorf("save the shift: %w", err)
	}
	return nil
}

// remove ends the import.
func (s shiftState) remove() error {
	if err := os.Remove(s.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the state of the completed import: %w", err)
	}
	return nil
}
