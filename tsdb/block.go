package tsdb

import (
	"container/list"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"path/filepath"
	"sync/atomic"
	"syscall"

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
	blockUnions   = "unions"
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
	// Unions is the size of the file of unions in bytes; 0: the block has none.
	Unions int64 `json:"unions,omitempty"`
	// Step is that of the manifest.
	Step int64 `json:"step,omitempty"`
}

// block is an immutable directory of increments in Prometheus's block format. It
// is open while it is in use, and after that for as long as the cache has room.
// Safe for concurrent use.
type block struct {
	blockInfo
	home  *home
	fs    vfs.FS
	cache *blockCache

	clean    atomic.Uint64 // blockInfo.Clean as it is now
	damaged  atomic.Bool   // it was said that it is
	slow     atomic.Bool   // it was said that its unions are
	refs     atomic.Int64  // versions that hold it
	obsolete atomic.Bool   // remove the directory when refs is 0

	// Guarded by cache.mu.
	files   *blockFiles   // nil: closed
	users   int           // readers that have it in use
	opening chan struct{} // closed when it is known whether it could be opened; nil: nobody tries
	idle    *list.Element // its place among those open and not in use
}

func newBlock(c *blockCache, h *home, bi blockInfo) *block {
	b := &block{blockInfo: bi, home: h, fs: h.fs, cache: c}
	b.clean.Store(bi.Clean)
	return b
}

// dir is where the block is now; while home.moving is held it stays there.
func (b *block) dir() string { return filepath.Join(b.home.path(), b.ULID.String()) }

// openFiles maps the block's files and reads what their readers keep in memory.
func (b *block) openFiles() (files *blockFiles, err error) {
	b.home.moving.RLock()
	defer b.home.moving.RUnlock()
	err = readMapped(func() (err error) {
		files, err = b.mapFiles()
		return err
	})
	return files, err
}

// mapFiles maps the block's files. Upstream's reader verifies the checksums of the
// index's table of contents, symbols and table of postings here, and those of
// series, postings and chunks at every use; what it leaves unverified is checked
// here.
func (b *block) mapFiles() (*blockFiles, error) {
	ix, err := mapIndex(filepath.Join(b.dir(), blockIndex))
	if err != nil {
		return nil, fmt.Errorf("open index of block %s: %w", b.dir(), err)
	}
	if v := ix.Version(); v != index.FormatV2 {
		return nil, errors.Join(fmt.Errorf("open index of block %s: version %d, only %d is known", b.dir(), v, index.FormatV2), ix.Close())
	}
	ch, err := openChunks(filepath.Join(b.dir(), blockChunks))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open chunks of block %s: %w", b.dir(), err), ix.Close())
	}
	return &blockFiles{index: ix, chunks: ch, unions: b.mapUnions()}, nil
}

// mapUnions maps the block's unions; nil where it has none, or none that can be read:
// its windows say the same.
func (b *block) mapUnions() *unionsFile {
	if b.Unions == 0 {
		return nil
	}
	var f *unionsFile
	err := readMapped(func() (err error) {
		f, err = openUnions(b.dir(), b.Unions)
		return err
	})
	if err != nil {
		b.unionsError(err)
		return nil
	}
	return f
}

// unionsError says that unions of the block could not be read. Where that is for
// damage, it is logged and counted at the first time.
func (b *block) unionsError(err error) {
	if isDamage(err) && !b.slow.Swap(true) {
		b.cache.metrics.blockDamage.Inc()
		b.cache.logger.Error("the unions of a block are damaged, distinct counts read its windows instead, which takes longer; restore the block from a backup, or run \"quipu check\"", "block", b.dir(), "err", err)
	}
}

// release drops one version's hold; the last one closes the files and, where the
// block was superseded, removes them.
func (b *block) release() error {
	if b.refs.Add(-1) > 0 {
		return nil
	}
	err := b.cache.drop(b)
	if b.obsolete.Load() {
		err = errors.Join(err, b.fs.RemoveAll(b.dir()))
	}
	if err = errors.Join(err, b.home.leave()); err != nil {
		return fmt.Errorf("close block %s: %w", b.dir(), err)
	}
	return nil
}

// meta reads the block's meta.json.
func (b *block) meta() (*blockMeta, error) {
	b.home.moving.RLock()
	defer b.home.moving.RUnlock()
	path := filepath.Join(b.dir(), blockMetaName)
	src, err := b.fs.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read block meta: %w", err)
	}
	if b.MetaSum != 0 && crc32.Checksum(src, castagnoli) != b.MetaSum {
		return nil, fmt.Errorf("read block meta %s: checksum is wrong", path)
	}
	m, err := decodeBlockMeta(src)
	if err != nil {
		return nil, fmt.Errorf("read block meta %s: %w", path, err)
	}
	return m, nil
}

func decodeBlockMeta(src []byte) (*blockMeta, error) {
	m := &blockMeta{}
	return m, json.Unmarshal(src, m)
}

// readError says that a block could not be read. Where that is for damage, it is
// logged and counted at the first time.
func (b *block) readError(err error) error {
	if isDamage(err) && !b.damaged.Swap(true) {
		b.cache.metrics.blockDamage.Inc()
		b.cache.logger.Error("a block is damaged, queries of what it has fail; restore it from a backup, or run \"quipu check\"", "block", b.dir(), "err", err)
	}
	return fmt.Errorf("block %s: %w", b.ULID, err)
}

// isDamage reports whether an error in reading a block stays, as that of a checksum
// or a missing file does and that of a lack of descriptors or memory does not.
func isDamage(err error) bool {
	var errno syscall.Errno
	switch {
	case errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, errReaderClosed):
		return false
	case errors.As(err, &errno):
		return errno == syscall.ENOENT || errno == syscall.EINVAL // an empty file cannot be mapped
	}
	return true
}

// kinds returns the kind of every metric name in the block. meta.json says it, and
// where that is damaged the series do.
func (b *block) kinds() (map[string]increment.Kind, error) {
	m, err := b.meta()
	if err != nil {
		out, other := b.kindsOfSeries()
		err = b.readError(err)
		if other != nil {
			return nil, errors.Join(err, other)
		}
		return out, nil
	}
	out := make(map[string]increment.Kind, len(m.Quipu.Kinds))
	for name, s := range m.Quipu.Kinds {
		for _, k := range increment.Kinds {
			if k.String() == s {
				out[name] = k
			}
		}
		if !out[name].Valid() {
			return nil, fmt.Errorf("block %s: metric %q has unknown kind %q", b.dir(), name, s)
		}
	}
	return out, nil
}

// kindsOfSeries reads the kinds off the chunks.
func (b *block) kindsOfSeries() (map[string]increment.Kind, error) {
	var blocks openBlocks
	defer blocks.close()
	out := map[string]increment.Kind{}
	sels, err := b.series(context.Background(), &blocks)
	for _, sel := range sels {
		out[sel.labels.Get(model.MetricNameLabel)] = sel.kind
	}
	return out, err
}

// series returns all series, in order, with their kinds and chunks.
func (b *block) series(ctx context.Context, blocks *openBlocks) (out []*selection, err error) {
	files, err := blocks.open(b)
	if err == nil {
		err = readMapped(func() (err error) {
			out, err = b.readSeries(ctx, files)
			return err
		})
	}
	if err != nil {
		return nil, b.readError(err)
	}
	return out, nil
}

func (b *block) readSeries(ctx context.Context, files *blockFiles) (out []*selection, err error) {
	name, value := index.AllPostingsKey()
	p, err := files.index.Postings(ctx, name, value)
	if err != nil {
		return nil, err
	}
	builder := labels.NewScratchBuilder(8)
	for p.Next() {
		var metas []chunks.Meta
		if err := files.index.Series(p.At(), &builder, &metas); err != nil {
			return nil, err
		}
		sel := &selection{labels: builder.Labels()}
		for _, m := range metas {
			sel.chunks = append(sel.chunks, blockChunk{b, files.chunks, chunkAt{m.Ref, m.MinTime, m.MaxTime}})
		}
		if sel.kind, err = sel.kindOfFirst(); err != nil {
			return nil, err
		}
		out = append(out, sel)
	}
	return out, p.Err()
}

// addHashes calls add with the metric name and the hash of the labels of every series of
// one metric, of all where that is "". Those of a block that is damaged are not counted:
// new series are to be had whatever happened to old ones, and past their limit sums are
// exact too.
func (b *block) addHashes(ctx context.Context, metric string, add func(metric string, hash uint64)) error {
	err := readMapped(func() error { return b.readHashes(ctx, metric, add) })
	if err == nil {
		return nil
	}
	if err, damage := b.readError(err), isDamage(err); !damage {
		return err
	}
	return nil
}

func (b *block) readHashes(ctx context.Context, metric string, add func(metric string, hash uint64)) error {
	files, err := b.cache.acquire(b)
	if err != nil {
		return err
	}
	defer b.cache.release(b)
	name, value := model.MetricNameLabel, metric
	if metric == "" {
		name, value = index.AllPostingsKey()
	}
	p, err := files.index.Postings(ctx, name, value)
	if err != nil {
		return err
	}
	builder := labels.NewScratchBuilder(8)
	for p.Next() {
		if err := files.index.Series(p.At(), &builder, nil); err != nil {
			return err
		}
		ls := builder.Labels()
		add(ls.Get(model.MetricNameLabel), ls.Hash())
	}
	return p.Err()
}
