//go:build !unix

package load

import (
	"errors"
	"time"
)

// OwnCPU is not known here.
func OwnCPU() (time.Duration, error) {
	return 0, errors.New("the CPU time of this process is not read on this operating system")
}
