//go:build !unix

package main

import (
	"errors"
	"time"
)

// cpuTime is not known here.
func cpuTime() (time.Duration, error) {
	return 0, errors.New("the CPU time of a process is read with getrusage, which this system does not have")
}
