package tsdb

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/quipudb/quipu/internal/increment"
	"github.com/quipudb/quipu/internal/tenant"
)

// What is read from disk and has a checksum is given the right one here: it does not
// help against who writes the file, and no random bytes would pass it.

// sealed appends the checksum of a binary file.
func sealed(body []byte) []byte {
	return binary.BigEndian.AppendUint32(bytes.Clone(body), crc32.Checksum(body, castagnoli))
}

// What decodes is encoded to what decodes to the same, for every kind.
func FuzzMemlogDecode(f *testing.F) {
	for i, k := range modelKinds {
		var log memlog
		r := rand.New(rand.NewPCG(1, uint64(i)))
		s := newMemSeries(1, k.kind, labels.EmptyLabels(), 0)
		for n := range 8 {
			inc := increment.Increment{Series: &increment.Series{Kind: k.kind}, Time: testStart.UnixMilli() + int64(n%5)*g}
			k.fill(r, &inc)
			if _, err := s.add(&inc, cutsInUse{}); err != nil {
				f.Fatal(err)
			}
		}
		log, err := s.logged()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(byte(k.kind), log.bytes)
		f.Add(byte(k.kind), s.log.bytes)
	}
	f.Fuzz(func(t *testing.T, kind byte, src []byte) {
		p := points{kind: increment.Kind(kind)}
		if !p.kind.Valid() {
			return
		}
		log := memlog{bytes: src}
		if log.appendTo(&p) != nil || p.settle() != nil {
			return
		}
		var again memlog
		if err := again.set(&p); err != nil {
			t.Fatal(err)
		}
		q := points{kind: p.kind}
		if err := again.appendTo(&q); err != nil {
			t.Fatalf("what was encoded does not decode: %v", err)
		}
		var third memlog
		if err := third.set(&q); err != nil || !bytes.Equal(third.bytes, again.bytes) {
			t.Fatalf("%x became %x, %v", again.bytes, third.bytes, err)
		}
	})
}

func FuzzKeysDecode(f *testing.F) {
	head := append([]byte(keyMagic), keyVersion)
	f.Add(head)
	f.Add(append(head, make([]byte, keySize)...))
	f.Fuzz(func(t *testing.T, body []byte) {
		keys, err := decodeKeys(sealed(body))
		if err == nil && len(keys) != (len(body)-len(head))/keySize {
			t.Fatalf("%d keys in %d bytes", len(keys), len(body))
		}
	})
}

func FuzzStateFileDecode(f *testing.F) {
	head := append([]byte(stateMagic), stateVersion)
	f.Add(head)
	f.Add(append(head, "saved"...))
	f.Fuzz(func(t *testing.T, body []byte) {
		saved, err := decodeState(sealed(body))
		if err == nil && !bytes.Equal(appendState(nil, saved), sealed(body)) {
			t.Fatalf("%x became %x", body, saved)
		}
	})
}

func FuzzExemplarsDecode(f *testing.F) {
	f.Add(encodeExemplars(nil))
	e := increment.Exemplar{Series: labels.FromStrings("a", "b"), Labels: labels.FromStrings("trace_id", "1"), Time: 5, Value: 1.5}
	for _, n := range []int{1, 3} {
		src := encodeExemplars([]increment.Exemplar{e, e, e}[:n])
		f.Add(src[:len(src)-4])
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		all, err := decodeExemplars(sealed(body))
		if err != nil {
			return
		}
		again, err := decodeExemplars(encodeExemplars(all))
		if err != nil || fmt.Sprint(again) != fmt.Sprint(all) {
			t.Fatalf("%v became %v, %v", all, again, err)
		}
	})
}

func FuzzManifestDecode(f *testing.F) {
	f.Add([]byte("{}\n"))
	f.Add([]byte(`{"version":1,"generation":3,"grid":15,"watermark":{"wal":"01ARZ3NDEKTSV4RRFFQ69G5FAV","segment":1,"offset":2},"blocks":[{"ulid":"01ARZ3NDEKTSV4RRFFQ69G5FAV","minTime":1,"maxTime":2,"bytes":3}],"keys":[{"name":"a.keys","maxTime":4}]}` + "\n"))
	d := sampleDeletion(f)
	src, err := json.Marshal(&manifest{Version: manifestVersion, Deleted: d.Number, Deletions: []*deletion{d}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(src)
	f.Fuzz(func(t *testing.T, body []byte) {
		if _, err := decodeManifest(body); err == nil {
			return // it has a checksum of its own
		}
		m, err := decodeManifest(fmt.Appendf(bytes.Clone(body), "%08x\n", crc32.Checksum(body, castagnoli)))
		if err == nil && m.Version != manifestVersion {
			t.Fatal("an unknown version decodes")
		}
	})
}

func FuzzSegmentHeaderDecode(f *testing.F) {
	h := segmentHeader{wal: ulid.MustParse("01ARZ3NDEKTSV4RRFFQ69G5FAV"), segment: 7}
	f.Add(h.append(nil)[:segmentHeadSize-4], []byte("rest"))
	f.Fuzz(func(t *testing.T, body, rest []byte) {
		src := append(sealed(body), rest...)
		var h segmentHeader
		left, err := h.decode(src)
		if err != nil {
			return
		}
		if again := h.append(nil); !bytes.Equal(append(again, left...), src) {
			t.Fatalf("%x became %x", src, again)
		}
	})
}

// Whatever a meta.json says is said again when it is written.
func FuzzBlockMetaDecode(f *testing.F) {
	db := openTestDB(f, "", nil)
	db.mustAppend(tenant.Default, counterInc("c_total", testStart, 1))
	if err := db.Flush(context.Background(), tenant.Default); err != nil {
		f.Fatal(err)
	}
	metas, err := filepath.Glob(filepath.Join(db.dir, "default", "*", blockMetaName))
	if err != nil || len(metas) != 1 {
		f.Fatal(metas, err)
	}
	src, err := os.ReadFile(metas[0])
	if err != nil {
		f.Fatal(err)
	}
	f.Add(src)
	f.Fuzz(func(t *testing.T, src []byte) {
		m, err := decodeBlockMeta(src)
		if err != nil {
			return
		}
		out, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		again, err := decodeBlockMeta(out)
		if err != nil || !reflect.DeepEqual(again.Quipu.Kinds, m.Quipu.Kinds) && len(m.Quipu.Kinds) > 0 {
			t.Fatalf("%s became %s, %v", src, out, err)
		}
	})
}
