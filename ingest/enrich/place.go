package enrich

import (
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/oschwald/maxminddb-golang/v2"
)

// Place is where an address is, texts that are not to be changed. A field is empty where
// that is not known.
type Place struct {
	Country []byte // ISO 3166-1 alpha-2, "DE"
	City    []byte // in English
}

// database is a file of places that is open.
type database struct {
	reader *maxminddb.Reader
	stamp  string // of the file
}

// record is what of a city database is read; one of countries has no city.
type record struct {
	Country struct {
		Code string `maxminddb:"iso_code"`
	} `maxminddb:"country"`
	City struct {
		Names struct {
			English string `maxminddb:"en"`
		} `maxminddb:"names"`
	} `maxminddb:"city"`
}

// openDatabase reads a file of MaxMind's form. It is read, not mapped: a file that is
// overwritten in place would crash who maps it.
func openDatabase(path string) (*database, error) {
	stamp, err := stampOf(path)
	if err != nil {
		return nil, fmt.Errorf("open the database of places: %w", err)
	}
	bytes, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("open the database of places: %w", err)
	}
	reader, err := maxminddb.OpenBytes(bytes)
	if err != nil {
		return nil, fmt.Errorf("open the database of places %s: %w", path, err)
	}
	if kind := reader.Metadata.DatabaseType; !strings.Contains(kind, "City") && !strings.Contains(kind, "Country") {
		return nil, fmt.Errorf("open the database of places %s: it is a database of the type %q, one of cities or countries is needed", path, kind)
	}
	return &database{reader, stamp}, nil
}

func stampOf(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d bytes of %d", info.Size(), info.ModTime().UnixNano()), nil
}

// place is where an address is; the zero Place where the text is none.
func (d *database) place(text string) Place {
	addr, err := netip.ParseAddr(text)
	if err != nil {
		withPort, err := netip.ParseAddrPort(text)
		if err != nil {
			return Place{}
		}
		addr = withPort.Addr()
	}
	var r record
	if err := d.reader.Lookup(addr.Unmap()).Decode(&r); err != nil {
		return Place{} // of that address the file says nothing that can be read
	}
	return Place{Country: []byte(r.Country.Code), City: []byte(r.City.Names.English)}
}
