package tsdb

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/index"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/vfs"
)

const (
	blockMetaName = "meta.json"
	blockIndex    = "index"
	blockChunks   = "chunks"
)

// blockMeta is a block's meta.json: upstream's fields and ours.
type blockMeta struct {
	tsdb.BlockMeta
	Quipu blockMetaQuipu `json:"quipu"`
}

type blockMetaQuipu struct {
	Tenant     string `json:"tenant"`
	Generation uint64 `json:"generation"`
	// Kinds has the kind of every metric name in the block.
	Kinds map[string]string `json:"kinds"`
}

// block is an immutable directory of increments in Prometheus's block format. It
// is opened at its first use. Safe for concurrent use.
type block struct {
	blockInfo
	dir string
	fs  vfs.FS

	refs     atomic.Int64 // versions that hold it
	obsolete atomic.Bool  // remove the directory when refs is 0

	mu     sync.Mutex
	index  *index.Reader
	chunks *chunks.Reader
}

func newBlock(fsys vfs.FS, tenantDir string, bi blockInfo) *block {
	return &block{blockInfo: bi, dir: filepath.Join(tenantDir, bi.ULID.String()), fs: fsys}
}

// open returns the block's readers; they are valid while the caller holds a
// version that has the block.
func (b *block) open() (*index.Reader, *chunks.Reader, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.index != nil {
		return b.index, b.chunks, nil
	}
	ix, err := index.NewFileReader(filepath.Join(b.dir, blockIndex), index.DecodePostingsRaw)
	if err != nil {
		return nil, nil, fmt.Errorf("open index of block %s: %w", b.dir, err)
	}
	ch, err := chunks.NewDirReader(filepath.Join(b.dir, blockChunks), chunkPool{})
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("open chunks of block %s: %w", b.dir, err), ix.Close())
	}
	b.index, b.chunks = ix, ch
	return ix, ch, nil
}

// release drops one version's hold; the last one closes the files and, where the
// block was superseded, removes them.
func (b *block) release() error {
	if b.refs.Add(-1) > 0 {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var err error
	if b.index != nil {
		err = errors.Join(b.index.Close(), b.chunks.Close())
		b.index, b.chunks = nil, nil
	}
	if b.obsolete.Load() {
		err = errors.Join(err, b.fs.RemoveAll(b.dir))
	}
	if err != nil {
		return fmt.Errorf("close block %s: %w", b.dir, err)
	}
	return nil
}

// meta reads the block's meta.json.
func (b *block) meta() (*blockMeta, error) {
	path := filepath.Join(b.dir, blockMetaName)
	src, err := b.fs.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read block meta: %w", err)
	}
	var m blockMeta
	if err := json.Unmarshal(src, &m); err != nil {
		return nil, fmt.Errorf("read block meta %s: %w", path, err)
	}
	return &m, nil
}

// kinds returns the kind of every metric name in the block.
func (b *block) kinds() (map[string]increment.Kind, error) {
	m, err := b.meta()
	if err != nil {
		return nil, err
	}
	out := make(map[string]increment.Kind, len(m.Quipu.Kinds))
	for name, s := range m.Quipu.Kinds {
		for _, k := range []increment.Kind{increment.Counter, increment.Histogram, increment.Distinct} {
			if k.String() == s {
				out[name] = k
			}
		}
		if !out[name].Valid() {
			return nil, fmt.Errorf("block %s: metric %q has unknown kind %q", b.dir, name, s)
		}
	}
	return out, nil
}
