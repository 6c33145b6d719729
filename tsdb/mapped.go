package tsdb

import (
	"fmt"
	"runtime/debug"
)

// readMapped calls f, which reads mapped files. Where the disk fails under one, or
// the file was cut short since, the system answers with a fault instead of an error
// of a read; it would end the process for all tenants, and is an error here. f holds
// no lock that it does not release when it panics.
func readMapped(f func() error) (err error) {
	before := debug.SetPanicOnFault(true)
	defer func() {
		debug.SetPanicOnFault(before)
		p := recover()
		if p == nil {
			return
		}
		// Only a fault has an address. All other panics are bugs of ours.
		if _, fault := p.(interface{ Addr() uintptr }); !fault {
			panic(p)
		}
		err = fmt.Errorf("read a mapped file: %v", p)
	}()
	return f()
}
