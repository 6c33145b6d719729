package tsdb

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/tsdb/dedup"
)

// idDirName is where the ids of events are.
const idDirName = "@ids"

// idsLiveMax is how many ids are in memory before they are written to files.
const idsLiveMax = 2_000_000

// eventIDs are the ids of all tenants' events and what they need of the log.
type eventIDs struct {
	*dedup.Set
	hold logHold
	// writing is held while ids are taken and written: what a snapshot has of them is what
	// it has taken.
	writing sync.Mutex
	// barrier is held shared from before ids are logged until they are settled, and
	// exclusively while a flush takes them: what was logged before is in what it
	// took (I2).
	barrier sync.RWMutex
}

// openIDs opens the ids on disk; those of the log follow with its replay.
func (db *DB) openIDs() error {
	set, err := dedup.Open(dedup.Options{
		Dir: filepath.Join(db.opts.Dir, idDirName), FS: db.opts.FS, Logger: db.opts.Logger,
		Window: db.opts.DedupWindow, IDsMax: db.opts.EventIDsMax,
	})
	if err != nil {
		return err
	}
	db.ids.Set = set
	return nil
}

// Reserve looks up the ids of a batch's events, hashes that are of one tenant and
// uniform, and reserves those that were not applied within the de-duplication window.
// Put the reservation into the batch, or settle it. It waits while another batch has
// reserved one of the ids.
func (db *DB) Reserve(ids [][16]byte) (increment.Reservation, error) {
	r, err := db.ids.Reserve(ids, db.opts.Now().UnixMilli())
	if err != nil {
		return nil, fmt.Errorf("look up event ids: %w", err)
	}
	return r, nil
}

// reservationOf is a batch's reservation, nil where it has none.
func reservationOf(b *increment.Batch) *dedup.Reservation {
	if b.Reservation == nil {
		return nil
	}
	r, ok := b.Reservation.(*dedup.Reservation)
	if !ok {
		panic("tsdb: a batch with a reservation that is not of this storage")
	}
	return r
}

// flushIDs writes the ids in memory to files, so that the log is not needed for them.
func (db *DB) flushIDs() error {
	db.ids.writing.Lock()
	defer db.ids.writing.Unlock()
	db.ids.barrier.Lock()
	db.ids.take()
	db.ids.barrier.Unlock()
	return db.writeIDs()
}

// take begins a flush of the ids in memory.
//
// REQUIRES: e.writing, e.barrier
func (e *eventIDs) take() {
	e.Take()
	e.hold.freeze()
}

// writeIDs writes the ids that were taken.
//
// REQUIRES: db.ids.writing
func (db *DB) writeIDs() error {
	// The events that the ids are of are in the log alone.
	if err := db.wal.syncAll(); err != nil {
		return err
	}
	if err := db.ids.Write(); err != nil {
		return err
	}
	db.ids.hold.flushed()
	return nil
}

// maintainIDs writes ids where there are many in memory, and forgets old ones.
func (db *DB) maintainIDs() error {
	var err error
	if db.ids.Live() >= idsLiveMax {
		err = db.flushIDs()
	}
	return errors.Join(err, db.ids.Expire(db.opts.Now().UnixMilli()))
}
