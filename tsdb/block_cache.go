package tsdb

import (
	"container/list"
	"errors"
	"log/slog"
	"sync"
)

// blockFiles are the files of a block while they are mapped. Strings and chunk
// bytes that come from them are valid until they are closed, except labels that
// Series builds, which are copies.
type blockFiles struct {
	index  *mappedIndex
	chunks *chunkFiles
	unions *unionsFile // nil: none, or none that can be read
}

func (f *blockFiles) close() error {
	return errors.Join(f.index.Close(), f.chunks.Close(), f.unions.close())
}

// blockCache keeps at most max blocks open, of all tenants together: past that the
// one whose last use is longest ago is closed, of those that nobody uses. Where all
// are in use there are more, rather than a query that fails. Safe for concurrent
// use; files are opened and closed without its lock.
type blockCache struct {
	max     int
	logger  *slog.Logger
	metrics *metrics

	mu   sync.Mutex // guards what follows and the fields of blocks that say so
	open int        // blocks open or being opened
	idle *list.List // of *block: open and not in use, the last used first
}

func newBlockCache(max int, l *slog.Logger, m *metrics) *blockCache {
	return &blockCache{max: max, logger: l, metrics: m, idle: list.New()}
}

// acquire returns the files of a block, opened where they are not. They stay open
// until release, before which the caller must not unpin the version that it has the
// block from.
func (c *blockCache) acquire(b *block) (*blockFiles, error) {
	c.mu.Lock()
	for b.opening != nil {
		wait := b.opening
		c.mu.Unlock()
		<-wait
		c.mu.Lock()
	}
	b.users++
	if b.files != nil {
		defer c.mu.Unlock()
		if b.idle != nil {
			c.idle.Remove(b.idle)
			b.idle = nil
		}
		return b.files, nil
	}
	b.opening = make(chan struct{})
	c.open++
	unused := c.trim()
	c.mu.Unlock()

	c.close(unused)
	files, err := b.openFiles()

	c.mu.Lock()
	defer c.mu.Unlock()
	close(b.opening)
	b.opening = nil
	if err != nil {
		b.users--
		c.open--
		return nil, err
	}
	b.files = files
	return files, nil
}

// release ends one use of a block.
func (c *blockCache) release(b *block) {
	c.mu.Lock()
	b.users--
	if b.users == 0 {
		b.idle = c.idle.PushFront(b)
	}
	unused := c.trim()
	c.mu.Unlock()
	c.close(unused)
}

// drop closes a block that no version has any more.
func (c *blockCache) drop(b *block) error {
	c.mu.Lock()
	var files *blockFiles
	if b.idle != nil {
		files = c.take(b)
	}
	c.mu.Unlock()
	if files == nil {
		return nil
	}
	return files.close()
}

// trim takes the files of blocks that are one too many; the caller closes them.
//
// REQUIRES: c.mu
func (c *blockCache) trim() (out []*blockFiles) {
	for c.open > c.max && c.idle.Len() > 0 {
		out = append(out, c.take(c.idle.Back().Value.(*block)))
	}
	return out
}

// take makes a block that nobody uses closed.
//
// REQUIRES: c.mu
func (c *blockCache) take(b *block) *blockFiles {
	c.idle.Remove(b.idle)
	files := b.files
	b.idle, b.files = nil, nil
	c.open--
	return files
}

// close closes files for the sake of the bound: whoever is past it reads other ones
// and is not to fail for these.
func (c *blockCache) close(unused []*blockFiles) {
	for _, f := range unused {
		if err := f.close(); err != nil {
			c.logger.Error("close the files of a block that is not in use", "err", err)
		}
	}
}

// count is the number of blocks that are open.
func (c *blockCache) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.open
}

// openBlocks are the blocks that one reader has in use, each acquired once. The
// zero value is ready. The version that has the blocks stays pinned until after
// close. Safe for concurrent use.
type openBlocks struct {
	mu     sync.RWMutex // held shared while data of the blocks is read
	files  map[*block]*blockFiles
	closed bool
}

var errReaderClosed = errors.New("read after the querier was closed")

// open returns the files of a block, which are valid until close.
func (o *openBlocks) open(b *block) (*blockFiles, error) {
	o.mu.RLock()
	files := o.files[b]
	o.mu.RUnlock()
	if files != nil {
		return files, nil
	}
	files, err := b.cache.acquire(b)
	if err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.closed:
		b.cache.release(b)
		return nil, errReaderClosed
	case o.files[b] != nil:
		b.cache.release(b) // another goroutine of this reader came first
	default:
		if o.files == nil {
			o.files = map[*block]*blockFiles{}
		}
		o.files[b] = files
	}
	return files, nil
}

// read calls f while the blocks are sure to stay open.
func (o *openBlocks) read(f func() error) error {
	o.mu.RLock()
	defer o.mu.RUnlock()
	if o.closed {
		return errReaderClosed
	}
	return f()
}

// close gives all blocks back.
func (o *openBlocks) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for b := range o.files {
		b.cache.release(b)
	}
	o.files, o.closed = nil, true
}
