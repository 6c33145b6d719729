//go:build !unix

package load

import (
	"errors"
	"time"
)

func ownCPU() (time.Duration, error) {
	return 0, errors.New("the CPU time of this process is not read on this operating system")
}
