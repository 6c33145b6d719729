package tsdb

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"path/filepath"
	"strconv"

	"github.com/oklog/ulid/v2"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/vfs"
)

const (
	manifestName    = "manifest.json"
	manifestVersion = 1
)

// manifest is the only authority on what a tenant's directory holds, and the
// commit point of every change to it: what it does not name is garbage.
type manifest struct {
	Version    int    `json:"version"`
	Generation uint64 `json:"generation"`
	// Grid is the width of the tenant's windows in seconds, for good.
	Grid int64 `json:"grid"`
	// IDKeySum is the CRC-32C of the key of user ids, with one bit off no id would be
	// known again; 0: not recorded.
	IDKeySum uint32 `json:"idKeySum,omitempty"`
	// EventKey keys the ids of events since the key of user ids was another; none: see
	// eventKeyOf.
	EventKey []byte `json:"eventKey,omitempty"`
	// UserEpochs are when the key of user ids was destroyed and another took its place,
	// milliseconds since 1970, ascending.
	UserEpochs []int64 `json:"userEpochs,omitempty"`
	// EventTag begins the ids of the tenant's events, so that a snapshot's can be told from
	// those of others; 0: they begin as their hashes do.
	EventTag uint32 `json:"eventTag,omitempty"`
	// Watermark: increments logged before it are in Blocks; replay skips them.
	Watermark position    `json:"watermark"`
	Blocks    []blockInfo `json:"blocks"`
	// Keys are the files of batch keys logged before Watermark.
	Keys []keyFile `json:"keys"`
	// Exemplars is the file of the exemplars logged before Watermark; "" for none.
	Exemplars string `json:"exemplars,omitempty"`
	// State is the file of what is kept besides increments, as of Watermark; "" for none.
	State string `json:"state,omitempty"`
	// Deleted is how many deletions there were, and Deletions those that some block is not
	// clean of. What is logged after Watermark may have more.
	Deleted   uint64      `json:"deleted,omitempty"`
	Deletions []*deletion `json:"deletions,omitempty"`
	// Metadata is what was said of metrics before Watermark.
	Metadata []increment.Metadata `json:"metadata,omitempty"`
}

// nextSeq is that of blocks that are written now.
func (m *manifest) nextSeq() uint64 {
	seq := uint64(0)
	for _, b := range m.Blocks {
		seq = max(seq, b.Seq)
	}
	return seq + 1
}

// files are the names of the files it names, blocks apart.
func (m *manifest) files() []string {
	var out []string
	for _, k := range m.Keys {
		out = append(out, k.Name)
	}
	if m.Exemplars != "" {
		out = append(out, m.Exemplars)
	}
	if m.State != "" {
		out = append(out, m.State)
	}
	return out
}

// blockInfo is what is known of a block without opening it.
type blockInfo struct {
	ULID    ulid.ULID `json:"ulid"`
	MinTime int64     `json:"minTime"` // start of the first window, milliseconds since 1970
	MaxTime int64     `json:"maxTime"` // end of the last window
	Bytes   int64     `json:"bytes"`   // of chunks, index and unions
	// MetaSum is the CRC-32C of meta.json, which has none of its own; 0: not recorded.
	MetaSum uint32 `json:"metaSum,omitempty"`
	// Seq orders the blocks by when what they hold was written: of two samples of one
	// time the one of the later block stands. A merged block has the last of those of
	// its sources that have samples.
	Seq uint64 `json:"seq,omitempty"`
	// Samples: the block has series of samples, for which order matters.
	Samples bool `json:"samples,omitempty"`
	// Clean is up to which deletion the block has nothing that was deleted.
	Clean uint64 `json:"clean,omitempty"`
	// Series is how many the block has; 0: not recorded.
	Series uint64 `json:"series,omitempty"`
	// Unions is the size of the file of unions in bytes; 0: the block has none.
	Unions int64 `json:"unions,omitempty"`
	// Step is the width in milliseconds of the windows that the block was downsampled to;
	// 0: it was not.
	Step int64 `json:"step,omitempty"`
	// Generation is what the block says, where the tenant was restored since it was
	// written; 0: the manifest's.
	Generation uint64 `json:"generation,omitempty"`
}

// keyFile names a file of batch keys.
type keyFile struct {
	Name string `json:"name"`
	// MaxTime is when the newest key was first seen, milliseconds since 1970.
	MaxTime int64 `json:"maxTime"`
}

// write replaces the manifest in dir. After an error the old one is in force,
// unless that is vfs.ErrUncertain: then nothing that either names may go.
func (m *manifest) write(fsys vfs.FS, dir string) error {
	m.Version = manifestVersion
	body, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return fmt.Errorf("encode manifest: %w", err)
	}
	// The last line is the checksum of all before it.
	body = append(body, '\n')
	body = fmt.Appendf(body, "%08x\n", crc32.Checksum(body, castagnoli))
	return vfs.WriteFile(fsys, filepath.Join(dir, manifestName), body)
}

func readManifest(fsys vfs.FS, dir string) (*manifest, error) {
	path := filepath.Join(dir, manifestName)
	src, err := fsys.ReadFile(path)
	if err != nil {
		return nil, err
	}
	m, err := decodeManifest(src)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return m, nil
}

func decodeManifest(src []byte) (*manifest, error) {
	i := bytes.LastIndexByte(bytes.TrimSuffix(src, []byte("\n")), '\n') + 1
	sum, err := strconv.ParseUint(string(bytes.TrimSpace(src[i:])), 16, 32)
	if err != nil || crc32.Checksum(src[:i], castagnoli) != uint32(sum) {
		return nil, errors.New("checksum is wrong")
	}
	var m manifest
	if err := json.Unmarshal(src[:i], &m); err != nil {
		return nil, err
	}
	if m.Version != manifestVersion {
		return nil, fmt.Errorf("version %d, only %d is known", m.Version, manifestVersion)
	}
	return &m, m.checkDeletions()
}
