package tsdb

import (
	"container/list"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
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
// is open while it is in use, and after that for as long as the cache has room.
// Safe for concurrent use.
type block struct {
	blockInfo
	dir   string
	fs    vfs.FS
	cache *blockCache

	refs     atomic.Int64 // versions that hold it
	obsolete atomic.Bool  // remove the directory when refs is 0

	// Guarded by cache.mu.
	files   *blockFiles   // nil: closed
	users   int           // readers that have it in use
	opening chan struct{} // closed when it is known whether it could be opened; nil: nobody tries
	idle    *list.Element // its place among those open and not in use
}

func newBlock(c *blockCache, fsys vfs.FS, tenantDir string, bi blockInfo) *block {
	return &block{blockInfo: bi, dir: filepath.Join(tenantDir, bi.ULID.String()), fs: fsys, cache: c}
}

// openFiles maps the block's files. Upstream's reader verifies the checksums of the
// index's table of contents, symbols and table of postings here, and those of
// series, postings and chunks at every use; what it leaves unverified is checked
// here.
func (b *block) openFiles() (*blockFiles, error) {
	ix, err := index.NewFileReader(filepath.Join(b.dir, blockIndex), index.DecodePostingsRaw)
	if err != nil {
		return nil, fmt.Errorf("open index of block %s: %w", b.dir, err)
	}
	if v := ix.Version(); v != index.FormatV2 {
		return nil, errors.Join(fmt.Errorf("open index of block %s: version %d, only %d is known", b.dir, v, index.FormatV2), ix.Close())
	}
	ch, err := openChunks(filepath.Join(b.dir, blockChunks))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open chunks of block %s: %w", b.dir, err), ix.Close())
	}
	return &blockFiles{ix, ch}, nil
}

// openChunks maps chunk files. Upstream's reader numbers them as they come: with one
// missing the references of those after it would lead into the wrong file.
func openChunks(dir string) (*chunks.Reader, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for i, e := range entries {
		if want := chunkFileName(i); e.Name() != want {
			return nil, fmt.Errorf("%s is missing, %s is there", filepath.Join(dir, want), e.Name())
		}
	}
	if len(entries) == 0 {
		return nil, fmt.Errorf("%s is missing", filepath.Join(dir, chunkFileName(0)))
	}
	return chunks.NewDirReader(dir, chunkPool{})
}

// chunkFileName is the name of the chunk file to which references say n.
func chunkFileName(n int) string { return fmt.Sprintf("%06d", n+1) }

// release drops one version's hold; the last one closes the files and, where the
// block was superseded, removes them.
func (b *block) release() error {
	if b.refs.Add(-1) > 0 {
		return nil
	}
	err := b.cache.drop(b)
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

// addHashes adds the label hashes of one metric's series to known.
func (b *block) addHashes(ctx context.Context, metric string, known map[uint64]struct{}) error {
	files, err := b.cache.acquire(b)
	if err != nil {
		return err
	}
	defer b.cache.release(b)
	p, err := files.index.Postings(ctx, model.MetricNameLabel, metric)
	if err != nil {
		return fmt.Errorf("read index of block %s: %w", b.dir, err)
	}
	builder := labels.NewScratchBuilder(8)
	for p.Next() {
		if err := files.index.Series(p.At(), &builder, nil); err != nil {
			return fmt.Errorf("read index of block %s: %w", b.dir, err)
		}
		known[builder.Labels().Hash()] = struct{}{}
	}
	if err := p.Err(); err != nil {
		return fmt.Errorf("read index of block %s: %w", b.dir, err)
	}
	return nil
}
